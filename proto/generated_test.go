package proto_test

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/descriptorpb"

	_ "github.com/fettle-hpc/fettle/proto/fettle/v1"
	_ "github.com/fettle-hpc/fettle/proto/plugin/v1"
	_ "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// TestGeneratedCodeIsFresh compiles every .proto file and compares it with the descriptor in the committed Go code.
func TestGeneratedCodeIsFresh(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*/v1/*.proto")
	if err != nil || len(files) == 0 {
		t.Fatalf("no .proto files found: %v", err)
	}
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{"."}}),
	}
	compiled, err := compiler.Compile(context.Background(), files...)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range compiled {
		got, err := protoregistry.GlobalFiles.FindFileByPath(want.Path())
		if err != nil {
			t.Errorf("%s: no generated code: run `make generate`", want.Path())
			continue
		}
		if diff := cmp.Diff(normal(want), normal(got), protocmp.Transform()); diff != "" {
			t.Errorf("%s: the generated code is stale: run `make generate` (-proto +go)\n%s", want.Path(), diff)
		}
		checkServices(t, want)
	}
}

func normal(fd protoreflect.FileDescriptor) *descriptorpb.FileDescriptorProto {
	p := proto.Clone(protodesc.ToFileDescriptorProto(fd)).(*descriptorpb.FileDescriptorProto)
	p.SourceCodeInfo = nil
	return p
}

var rpcName = regexp.MustCompile(`FullMethodName\s+= "/([^"]+)"`)

// checkServices compares the methods of the committed gRPC code, which holds no descriptor of its own.
func checkServices(t *testing.T, fd protoreflect.FileDescriptor) {
	t.Helper()
	var want, got []string
	for i := range fd.Services().Len() {
		svc := fd.Services().Get(i)
		for j := range svc.Methods().Len() {
			want = append(want, string(svc.FullName())+"/"+string(svc.Methods().Get(j).Name()))
		}
	}
	if len(want) == 0 {
		return
	}
	code, err := os.ReadFile(strings.TrimSuffix(fd.Path(), ".proto") + "_grpc.pb.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range rpcName.FindAllStringSubmatch(string(code), -1) {
		got = append(got, m[1])
	}
	// The template prints FullMethodName = "/pkg.Service/Method".
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: the generated gRPC code is stale: run `make generate` (-proto +go)\n%s", fd.Path(), diff)
	}
}
