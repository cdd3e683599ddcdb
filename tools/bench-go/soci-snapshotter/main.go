// soci-snapshotter is cmd/soci-snapshotter-grpc of soci-snapshotter without its options that the bench has no use for
// (keychains, socket activation): the Go module proxy has that repository's packages, not its commands.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	golog "log"
	"net"
	"net/http"
	"path/filepath"

	"github.com/awslabs/soci-snapshotter/config"
	"github.com/awslabs/soci-snapshotter/fs"
	"github.com/awslabs/soci-snapshotter/metadata"
	"github.com/awslabs/soci-snapshotter/service"
	"github.com/awslabs/soci-snapshotter/soci"
	"github.com/awslabs/soci-snapshotter/ztoc"
	"github.com/containerd/log"
	metrics "github.com/docker/go-metrics"
	bolt "go.etcd.io/bbolt"
	"imagecache.test/bench/serve"
)

func main() {
	address := flag.String("address", "", "socket")
	path := flag.String("config", "", "the TOML file of soci-snapshotter-grpc")
	root := flag.String("root", "", "directory")
	flag.Parse()
	if err := run(context.Background(), *address, *path, *root); err != nil {
		log.L.WithError(err).Fatal("soci-snapshotter")
	}
}

func run(ctx context.Context, address, path, root string) error {
	golog.SetOutput(log.G(ctx).WriterLevel(log.DebugLevel)) // go-fuse writes there
	settings, err := config.NewConfigFromToml(path)
	if err != nil {
		return err
	}
	if err := soci.EnsureSnapshotterRootPath(root); err != nil {
		return err
	}
	if err := service.Supported(root); err != nil {
		return err
	}
	store, err := metadataStore(root, settings)
	if err != nil {
		return err
	}
	options := service.WithFilesystemOptions(fs.WithMetadataStore(store))
	snapshotter, err := service.NewSociSnapshotterService(ctx, root, &settings.ServiceConfig, options)
	if err != nil {
		return err
	}
	if settings.MetricsAddress != "" {
		listener, err := net.Listen(settings.MetricsNetwork, settings.MetricsAddress)
		if err != nil {
			return err
		}
		mux := http.NewServeMux()
		mux.Handle("/metrics", metrics.Handler())
		go http.Serve(listener, mux)
	}
	return serve.Snapshots(address, snapshotter)
}

// metadataStore has the original's two kinds, with its options for bolt.
func metadataStore(root string, settings *config.Config) (metadata.Store, error) {
	options := bolt.Options{
		NoFreelistSync:  true,
		InitialMmapSize: 64 << 20,
		FreelistType:    bolt.FreelistMapType,
	}
	switch settings.MetadataStore {
	case "db":
		options.NoSync = settings.MetadataDBNoSync
		db, err := bolt.Open(filepath.Join(root, "metadata.db"), 0o600, &options)
		if err != nil {
			return nil, err
		}
		return func(reader *io.SectionReader, toc ztoc.TOC, opts ...metadata.Option) (metadata.Reader, error) {
			if settings.MetadataInsertionChunkSize > 0 {
				opts = append(opts, metadata.WithInsertionChunkSize(settings.MetadataInsertionChunkSize))
			}
			return metadata.NewReader(db, reader, toc, opts...)
		}, nil
	case "db-multi":
		return metadata.NewMultiReader(filepath.Join(root, "metadata"), metadata.DBMultiOptions{BoltOptions: &options}), nil
	default:
		return nil, fmt.Errorf("unknown metadata store %q", settings.MetadataStore)
	}
}
