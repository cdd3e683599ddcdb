package snapshotter_suite

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
)

// TestSuite is the suite that every snapshotter of containerd's passes, through the proxy that real ones go through.
func TestSuite(t *testing.T) {
	testsuite.SnapshotterSuite(t, name, func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		return server(ctx, root)
	})
}
