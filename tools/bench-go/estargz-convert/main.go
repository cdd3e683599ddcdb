// estargz-convert does what `ctr-remote image convert --estargz --estargz-record-in` does with an image, in an OCI layout
// in place: each layer as eStargz, the recorded files first, in the order in which they were touched.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/converter"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	"github.com/containerd/stargz-snapshotter/estargz"
	estargzconvert "github.com/containerd/stargz-snapshotter/nativeconverter/estargz"
	"github.com/containerd/stargz-snapshotter/recorder"
	"github.com/containerd/stargz-snapshotter/util/decompressutil"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"imagecache.test/bench/layout"
)

func main() {
	record := flag.String("record", "", "what the analyzer wrote")
	level := flag.Int("level", 9, "of gzip")
	helper := flag.String("gzip-helper", "", "igzip, pigz, gzip: a program of PATH that decompresses")
	flag.Parse()
	if err := run(context.Background(), flag.Arg(0), *record, *level, *helper); err != nil {
		log.L.WithError(err).Fatal("estargz-convert")
	}
}

func run(ctx context.Context, directory, record string, level int, helper string) error {
	store, image, err := layout.Open(directory)
	if err != nil {
		return err
	}
	manifest, err := images.Manifest(ctx, store, image, platforms.DefaultStrict())
	if err != nil {
		return err
	}
	prioritized, err := prioritizedFiles(record, manifest.Layers)
	if err != nil {
		return err
	}
	options := []estargz.Option{estargz.WithCompressionLevel(level)}
	if helper != "" {
		decompress, err := decompressutil.GetGzipHelperFunc(helper)
		if err != nil {
			return err
		}
		options = append(options, estargz.WithGzipHelperFunc(decompress))
	}
	layers := estargzconvert.LayerConvertWithLayerAndCommonOptsFunc(prioritized, options...)
	converted, err := convert(ctx, store, image, layers)
	if err != nil {
		return err
	}
	return layout.Close(directory, converted)
}

// convert is the middle of converter.Convert, which wants a client of containerd for its image store.
func convert(
	ctx context.Context, store content.Store, image ocispec.Descriptor, layers converter.ConvertFunc,
) (ocispec.Descriptor, error) {
	converted, err := converter.DefaultIndexConvertFunc(layers, true, platforms.DefaultStrict())(ctx, store, image)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if converted == nil {
		return ocispec.Descriptor{}, errors.New("no layer was converted")
	}
	return *converted, nil
}

// prioritizedFiles reads lines of the recorder. Files are prioritized in the layer that the analyzer found them in.
func prioritizedFiles(path string, layers []ocispec.Descriptor) (map[digest.Digest][]estargz.Option, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	files := map[digest.Digest][]string{}
	for decoder := json.NewDecoder(file); ; {
		var entry recorder.Entry
		if err := decoder.Decode(&entry); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if entry.LayerIndex == nil || *entry.LayerIndex >= len(layers) {
			return nil, fmt.Errorf("%s names a layer that the image has not: %s", path, entry.Path)
		}
		layer := layers[*entry.LayerIndex].Digest
		files[layer] = append(files[layer], entry.Path)
	}
	options := map[digest.Digest][]estargz.Option{}
	for layer, names := range files {
		options[layer] = []estargz.Option{estargz.WithPrioritizedFiles(names)}
	}
	return options, nil
}
