package snapshotter_suite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	bolt "go.etcd.io/bbolt"
)

// image is what an image's config says: its diffIDs; and what follows from them: its chainIDs.
type image struct {
	diffs, chains []digest.Digest
}

func newImage(layers ...string) image {
	var found image
	for _, layer := range layers {
		found.diffs = append(found.diffs, digest.FromString(layer))
	}
	found.chains = append(found.chains, found.diffs...)
	identity.ChainIDs(found.chains)
	return found
}

// node is containerd's metadata layer over our snapshotter, as in containerd itself.
type node struct {
	ctx     context.Context
	db      *metadata.DB
	backend snapshots.Snapshotter
}

func newNode(t *testing.T, served image) node {
	t.Helper()
	dir, err := os.MkdirTemp("", "metadata-") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	root := filepath.Join(dir, "root")
	var layers []string
	for _, diff := range served.diffs {
		layers = append(layers, diff.String())
	}
	backend, stop, err := server(t.Context(), root, layers...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("the snapshotter ended: %v", err)
		}
	})
	file, err := bolt.Open(filepath.Join(dir, "meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	content, err := local.NewStore(filepath.Join(dir, "content"))
	if err != nil {
		t.Fatal(err)
	}
	db := metadata.NewDB(file, content, map[string]snapshots.Snapshotter{name: backend})
	if err := db.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	return node{namespaces.WithNamespace(t.Context(), "k8s.io"), db, backend}
}

func (n node) in(namespace string) node {
	n.ctx = namespaces.WithNamespace(n.ctx, namespace)
	return n
}

// unpack does what core/unpack does for each layer and says whether the layer had to be pulled.
func (n node) unpack(t *testing.T, parent string, chain digest.Digest, root bool) bool {
	t.Helper()
	sn := n.db.Snapshotter(name)
	labels := map[string]string{snapshots.LabelSnapshotRef: chain.String()}
	if root {
		labels["containerd.io/gc.root"] = "test"
	}
	key := fmt.Sprintf(snapshots.UnpackKeyFormat, "1-abcd", chain)
	mounts, err := sn.Prepare(n.ctx, key, parent, snapshots.WithLabels(labels))
	switch {
	case err == nil:
		for _, option := range mounts[len(mounts)-1].Options {
			if option == "ro" {
				t.Fatalf("a read-only mount for %s tells containerd 2.4 that the layer is complete", key)
			}
		}
		if err := sn.Commit(n.ctx, chain.String(), key, snapshots.WithLabels(labels)); err != nil {
			t.Fatal(err)
		}
	case !errdefs.IsAlreadyExists(err):
		t.Fatal(err)
	}
	info, statErr := sn.Stat(n.ctx, chain.String())
	if statErr != nil {
		t.Fatal(statErr)
	}
	if info.Kind != snapshots.KindCommitted || info.Parent != parent {
		t.Fatalf("%s is %+v", chain, info)
	}
	return err == nil
}

// pull unpacks a whole image and returns how many layers were pulled.
func (n node) pull(t *testing.T, img image) int {
	t.Helper()
	pulled, parent := 0, ""
	for i, chain := range img.chains {
		if n.unpack(t, parent, chain, i == len(img.chains)-1) {
			pulled++
		}
		parent = chain.String()
	}
	return pulled
}

func (n node) rows(t *testing.T) []string {
	t.Helper()
	var found []string
	err := n.backend.Walk(n.ctx, func(_ context.Context, info snapshots.Info) error {
		found = append(found, info.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestServedLayersAreAdopted(t *testing.T) {
	img := newImage("base", "app", "config")
	n := newNode(t, img)
	if pulled := n.pull(t, img); pulled != 0 {
		t.Fatalf("%d layers were pulled", pulled)
	}
	sn := n.db.Snapshotter(name)
	mounts, err := sn.Prepare(n.ctx, "container", img.chains[2].String())
	if err != nil {
		t.Fatal(err)
	}
	options := strings.Join(mounts[0].Options, ",")
	if mounts[0].Type != "overlay" || strings.Count(options, ":") != 2 {
		t.Fatalf("three layers are mounted as %+v", mounts)
	}
}

func TestASecondNamespaceSharesTheRows(t *testing.T) {
	img := newImage("base", "app")
	n := newNode(t, img)
	n.pull(t, img)
	if pulled := n.in("moby").pull(t, img); pulled != 0 {
		t.Fatalf("%d layers were pulled", pulled)
	}
	if rows := n.rows(t); len(rows) != 2 {
		t.Fatalf("rows: %v", rows)
	}
	if err := n.db.Snapshotter(name).Remove(n.ctx, img.chains[1].String()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.db.GarbageCollect(n.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := n.in("moby").db.Snapshotter(name).Stat(n.in("moby").ctx, img.chains[1].String()); err != nil {
		t.Fatalf("the other namespace lost its layer: %v", err)
	}
}

func TestLayersAboveServedOnesArePulled(t *testing.T) {
	img := newImage("base", "app", "missing")
	n := newNode(t, image{img.diffs[:2], img.chains[:2]})
	if pulled := n.pull(t, img); pulled != 1 {
		t.Fatalf("%d layers were pulled", pulled)
	}
}

func TestACollectionTakesEverything(t *testing.T) {
	img := newImage("base", "app")
	n := newNode(t, img)
	n.pull(t, img)
	if err := n.db.Snapshotter(name).Remove(n.ctx, img.chains[1].String()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.db.GarbageCollect(n.ctx); err != nil {
		t.Fatal(err)
	}
	if rows := n.rows(t); len(rows) != 0 {
		t.Fatalf("left: %v", rows)
	}
	if pulled := n.pull(t, img); pulled != 0 {
		t.Fatalf("%d layers were pulled after the collection", pulled)
	}
}
