// soci-convert does what `soci convert` does with an image, in an OCI layout in place: zTOCs for its layers, an image
// that names them, and an index of both (docs/soci-index-manifest-v2.md).
package main

import (
	"context"
	"encoding/json"
	"flag"
	"os"

	"github.com/awslabs/soci-snapshotter/soci"
	"github.com/awslabs/soci-snapshotter/soci/store"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	"imagecache.test/bench/layout"
)

func main() {
	prefetch := flag.String("prefetch-files-json", "", "as of `soci convert`")
	least := flag.Int64("min-layer-size", 10<<20, "as of `soci convert`")
	flag.Parse()
	if err := run(context.Background(), flag.Arg(0), *prefetch, *least); err != nil {
		log.L.WithError(err).Fatal("soci-convert")
	}
}

func run(ctx context.Context, directory, prefetch string, least int64) error {
	content, image, err := layout.Open(directory)
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "soci-convert-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	database, err := soci.NewDB(soci.ArtifactsDbPath(scratch))
	if err != nil {
		return err
	}
	blobs, err := store.NewSociStore(directory)
	if err != nil {
		return err
	}
	// what is not set here is as in the command by default
	options := []soci.BuilderOption{soci.WithArtifactsDb(database), soci.WithMinLayerSize(least)}
	if prefetch != "" {
		var files []string
		data, err := os.ReadFile(prefetch)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(data, &files); err != nil {
			return err
		}
		options = append(options, soci.WithPrefetchPaths(files))
	}
	builder, err := soci.NewIndexBuilder(content, blobs, options...)
	if err != nil {
		return err
	}
	source := images.Image{Name: directory, Target: image}
	converted, err := builder.Convert(ctx, source, soci.ConvertWithPlatforms(platforms.DefaultSpec()))
	if err != nil {
		return err
	}
	return layout.Close(directory, *converted)
}
