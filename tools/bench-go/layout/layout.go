// Package layout opens an OCI image layout as a content store of containerd: both keep blobs in the same places.
package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Open returns the store of the layout and the image that its index.json lists, which must be one.
func Open(directory string) (content.Store, ocispec.Descriptor, error) {
	data, err := os.ReadFile(filepath.Join(directory, ocispec.ImageIndexFile))
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	if len(index.Manifests) != 1 {
		return nil, ocispec.Descriptor{}, fmt.Errorf("%s lists %d images, not one", directory, len(index.Manifests))
	}
	store, err := local.NewLabeledStore(directory, &labels{byDigest: map[digest.Digest]map[string]string{}})
	return store, index.Manifests[0], err
}

// Close lists the image as the layout's only one, and removes what the store needed while it was written.
func Close(directory string, image ocispec.Descriptor) error {
	data, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{image},
	})
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(directory, ocispec.ImageIndexFile), data, 0o644),
		os.RemoveAll(filepath.Join(directory, "ingest")),
	)
}

// labels are what converters leave at blobs for containerd's garbage collector; a layout has no place for them.
type labels struct {
	mutex    sync.Mutex
	byDigest map[digest.Digest]map[string]string
}

func (l *labels) Get(blob digest.Digest) (map[string]string, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return maps.Clone(l.byDigest[blob]), nil
}

func (l *labels) Set(blob digest.Digest, all map[string]string) error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.byDigest[blob] = maps.Clone(all)
	return nil
}

func (l *labels) Update(blob digest.Digest, changed map[string]string) (map[string]string, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	all := maps.Clone(l.byDigest[blob])
	if all == nil {
		all = map[string]string{}
	}
	for key, value := range changed {
		if value == "" {
			delete(all, key)
		} else {
			all[key] = value
		}
	}
	l.byDigest[blob] = all
	return maps.Clone(all), nil
}
