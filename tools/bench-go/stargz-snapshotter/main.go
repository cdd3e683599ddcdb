// stargz-snapshotter is cmd/containerd-stargz-grpc of stargz-snapshotter without its options that the bench has no use
// for (FUSE manager, IPFS, keychains, metrics): the Go module proxy has that repository's packages, not its commands.
package main

import (
	"context"
	"flag"
	golog "log"

	"github.com/containerd/log"
	"github.com/containerd/stargz-snapshotter/fs"
	"github.com/containerd/stargz-snapshotter/metadata/memory"
	"github.com/containerd/stargz-snapshotter/service"
	"github.com/pelletier/go-toml"
	"imagecache.test/bench/serve"
)

func main() {
	address := flag.String("address", "", "socket")
	config := flag.String("config", "", "the TOML file of containerd-stargz-grpc")
	root := flag.String("root", "", "directory")
	flag.Parse()
	if err := run(context.Background(), *address, *config, *root); err != nil {
		log.L.WithError(err).Fatal("stargz-snapshotter")
	}
}

func run(ctx context.Context, address, path, root string) error {
	golog.SetOutput(log.G(ctx).WriterLevel(log.DebugLevel)) // go-fuse writes there
	tree, err := toml.LoadFile(path)
	if err != nil {
		return err
	}
	var config service.Config
	if err := tree.Unmarshal(&config); err != nil {
		return err
	}
	if config.PassThrough {
		config.Direct = true // as the original: passed through files must be files
	}
	if err := service.Supported(root); err != nil {
		return err
	}
	// the original's default: metadata in memory
	options := service.WithFilesystemOptions(fs.WithMetadataStore(memory.NewReader), fs.WithMetricsLogLevel(log.InfoLevel))
	snapshotter, err := service.NewStargzSnapshotterService(ctx, root, &config, options)
	if err != nil {
		return err
	}
	return serve.Snapshots(address, snapshotter)
}
