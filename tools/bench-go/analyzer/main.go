// estargz-record does what `ctr-remote image optimize --record-out` does: it runs a command in a container of an image
// that containerd has, and writes which files the command touched, in order, and which layer has each.
//
// The analyzer is that of stargz-snapshotter 0.18.2: later releases have it among their commands, which the Go module
// proxy does not have. It runs this program a second time, as `fanotify`, in the container's mount namespace.
package main

import (
	"context"
	"flag"
	"io"
	"os"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/log"
	"github.com/containerd/stargz-snapshotter/analyzer"
	"github.com/containerd/stargz-snapshotter/analyzer/fanotify/service"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const longest = 5 * time.Minute // that the command may run; it ends by itself

func main() {
	if len(os.Args) == 3 && os.Args[1] == "fanotify" {
		if err := service.Serve(os.Args[2], os.Stdin, os.Stdout); err != nil {
			log.L.WithError(err).Fatal("fanotify")
		}
		return
	}
	address := flag.String("address", "", "containerd's socket")
	namespace := flag.String("namespace", "default", "containerd's")
	reference := flag.String("image", "", "an image in containerd")
	out := flag.String("out", "", "file")
	flag.Parse()
	ctx := namespaces.WithNamespace(context.Background(), *namespace)
	if err := run(ctx, *address, *reference, *out, flag.Args()); err != nil {
		log.L.WithError(err).Fatal("estargz-record")
	}
}

func run(ctx context.Context, address, reference, out string, command []string) error {
	client, err := containerd.New(address)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, done, err := client.WithLease(ctx)
	if err != nil {
		return err
	}
	defer done(ctx)
	spec := func(image containerd.Image, rootfs string) ([]oci.SpecOpts, func() error, error) {
		options := []oci.SpecOpts{
			oci.WithDefaultSpec(),
			oci.WithDefaultUnixDevices,
			oci.WithRootFSPath(rootfs),
			oci.WithImageConfig(image),
			oci.WithProcessArgs(command...),
		}
		return options, func() error { return nil }, nil
	}
	record, err := analyzer.Analyze(ctx, client, reference,
		analyzer.WithSpecOpts(spec), analyzer.WithPeriod(longest)) // with a snapshotter it wants a snapshot of its own
	if err != nil {
		return err
	}
	reader, err := client.ContentStore().ReaderAt(ctx, ocispec.Descriptor{Digest: record})
	if err != nil {
		return err
	}
	defer reader.Close()
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, io.NewSectionReader(reader, 0, reader.Size())); err != nil {
		return err
	}
	return file.Close()
}
