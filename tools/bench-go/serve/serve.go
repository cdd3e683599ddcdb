// Package serve is the part that both snapshotters have in common with their own daemons: containerd's snapshots API on
// a unix socket, until a signal comes.
package serve

import (
	"context"
	"net"
	"os"
	"os/signal"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// Snapshots serves until SIGTERM or SIGINT. It doesn't close the snapshotter, as that deletes its caches: whoever
// started the program decides what becomes of its files, and the kernel ends FUSE mounts with their server.
func Snapshots(address string, snapshotter snapshots.Snapshotter) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	server := grpc.NewServer(grpc.UnaryInterceptor(outgoingNamespace))
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	listener, err := net.Listen("unix", address)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case <-signals:
		return nil
	case err := <-failed:
		return err
	}
}

// outgoingNamespace lets calls back to containerd have the namespace of the call that they serve, as
// cmd/soci-snapshotter-grpc/namespaces.go does.
func outgoingNamespace(
	ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	if namespace, ok := namespaces.Namespace(ctx); ok {
		ctx = namespaces.WithNamespace(ctx, namespace)
	}
	return handler(ctx, request)
}
