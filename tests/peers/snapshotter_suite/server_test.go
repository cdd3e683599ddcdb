// Package snapshotter_suite runs containerd's own code against our snapshotter.
package snapshotter_suite

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	name  = "overlayfs" // the suite knows by it that directories of lower layers cannot be renamed
	start = 60 * time.Second
)

// server starts our snapshotter with a fresh root and returns it as containerd's proxy plugin sees it.
func server(ctx context.Context, root string, layers ...string) (snapshots.Snapshotter, func() error, error) {
	socket := filepath.Join(filepath.Dir(root), "s")
	python, script := os.Getenv("SNAPSHOTTER_PYTHON"), os.Getenv("SNAPSHOTTER_SCRIPT")
	if python == "" || script == "" {
		return nil, nil, fmt.Errorf("SNAPSHOTTER_PYTHON and SNAPSHOTTER_SCRIPT are not set")
	}
	process := exec.Command(python, append([]string{script, root, socket}, layers...)...)
	process.Stdout, process.Stderr = os.Stderr, os.Stderr
	if err := process.Start(); err != nil {
		return nil, nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- process.Wait() }()
	conn, err := connect(ctx, socket, ended)
	if err != nil {
		process.Process.Kill()
		return nil, nil, err
	}
	stop := func() error {
		conn.Close()
		process.Process.Signal(syscall.SIGTERM)
		return <-ended
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), name), stop, nil
}

func connect(ctx context.Context, socket string, ended <-chan error) (*grpc.ClientConn, error) {
	for deadline := time.Now().Add(start); ; time.Sleep(20 * time.Millisecond) {
		if probe, err := net.Dial("unix", socket); err == nil {
			probe.Close()
			return grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		}
		select {
		case err := <-ended:
			return nil, fmt.Errorf("the snapshotter ended: %v", err)
		case <-ctx.Done():
			return nil, ctx.Err()
		default:
			if time.Now().After(deadline) {
				return nil, fmt.Errorf("the snapshotter has no connection after %v", start)
			}
		}
	}
}

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "the suite mounts and needs root")
		os.Exit(1)
	}
	os.Exit(m.Run())
}
