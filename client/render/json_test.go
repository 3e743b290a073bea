package render_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func TestMessageGolden(t *testing.T) {
	t.Parallel()
	retries, loss, rate := uint32(0), 1.25, 5e-7
	job := &fettlev1.Job{
		Id: 1 << 52, User: "alice", Uid: 1000, State: fettlev1.JobState_JOB_STATE_OUT_OF_MEMORY, Reason: fettlev1.Reason_REASON_HELD_BY_USER,
		Detail: "line\nbreak \x1b \u202e \U000e0041 模型 \"q\" \\", StartMs: -1, ExitCode: -9,
		Spec: &fettlev1.JobSpec{Name: "x", Script: []byte("#!/bin/sh\necho 1\n"), Config: []byte("base64:no"), Retries: &retries,
			Args: []string{"a", ""}, Env: []*fettlev1.KeyValue{{Key: "K", Value: "v"}}, GpusPerNode: &fettlev1.GPURequest{Type: "h100", Count: 2}},
		Attempts: []*fettlev1.Attempt{{Number: 1, Nodes: []*fettlev1.NodeAllocation{{Node: "n1", Exit: &fettlev1.Exit{Signal: 9}}}}},
		Progress: &fettlev1.Progress{Step: 3, Loss: &loss, LearningRate: &rate},
	}
	var pretty strings.Builder
	for line := range strings.SplitSeq(string(render.AppendMessage(nil, job)), `,"`) {
		fmt.Fprintf(&pretty, "%s\n", line)
	}
	golden(t, "job.json.txt", pretty.String())
	b := render.AppendMessage(nil, job)
	if !json.Valid(b) {
		t.Errorf("not JSON: %s", b)
	}
	for _, m := range []proto.Message{nil, (*fettlev1.Job)(nil)} {
		if got := string(render.AppendMessage(nil, m)); got != "null" {
			t.Errorf("%v gives %s", m, got)
		}
	}
	binary := string(render.AppendMessage(nil, &fettlev1.ReadLogResponse{Data: []byte{0xff, 0}}))
	if !strings.Contains(binary, `"data":"base64:/wA="`) {
		t.Errorf("binary: %s", binary)
	}
	unknown := string(render.AppendMessage(nil, &fettlev1.Event{State: 99}))
	if !strings.Contains(unknown, `"state":"unknown_99"`) {
		t.Errorf("unknown enum: %s", unknown)
	}
}

func TestFloats(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "0", 1: "1", 0.25: "0.25", 1e-5: "0.00001", 5e-7: "5e-07", 1e21: "1e+21", -2.5: "-2.5", math.Inf(1): "null"} {
		if got := string(render.AppendFloat(nil, v)); got != want {
			t.Errorf("%v: got %s, want %s", v, got, want)
		}
	}
	if got := string(render.AppendFloat(nil, math.NaN())); got != "null" {
		t.Errorf("NaN: %s", got)
	}
}

// answered are the messages whose fields json.md lists.
var answered = []proto.Message{
	&fettlev1.Header{}, &fettlev1.Job{}, &fettlev1.JobSpec{}, &fettlev1.GPURequest{}, &fettlev1.KeyValue{}, &fettlev1.Attempt{}, &fettlev1.NodeAllocation{},
	&fettlev1.Exit{}, &fettlev1.Progress{}, &fettlev1.JobActionResult{}, &fettlev1.ErrorDetail{}, &fettlev1.MemoryEstimate{}, &fettlev1.EstimateTerm{},
	&fettlev1.Node{}, &fettlev1.Inventory{}, &fettlev1.Isolation{}, &fettlev1.GPU{}, &fettlev1.NVLink{}, &fettlev1.GPUReading{}, &fettlev1.GPUProcess{},
	&fettlev1.GPUHolder{}, &fettlev1.GetClusterResponse{}, &fettlev1.ServerInfo{}, &fettlev1.SchedulerStats{}, &fettlev1.UpdateJobResponse{},
	&fettlev1.ClusterPolicy{}, &fettlev1.Partition{}, &fettlev1.ListPluginsResponse{}, &fettlev1.PluginStatus{},
}

const referenceMark = "## Messages\n"

// TestReferenceIsComplete keeps the list of fields in json.md equal to the messages; -update rewrites it.
func TestReferenceIsComplete(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(referenceMark)
	b.WriteString("\nThe `.proto` files under `proto/fettle/v1` say what each field means. `[]` marks a list, `?` a value that may be `null`.\n\n")
	for _, m := range answered {
		md := m.ProtoReflect().Descriptor()
		var fields []string
		for i := range md.Fields().Len() {
			f := md.Fields().Get(i)
			s := string(f.Name())
			switch {
			case f.IsList():
				s += "[]"
			case f.HasPresence():
				s += "?"
			}
			s = "`" + s + "`"
			switch f.Kind() {
			case protoreflect.MessageKind:
				s += " " + string(f.Message().Name())
			case protoreflect.EnumKind:
				s += " " + string(f.Enum().Name())
			}
			fields = append(fields, s)
		}
		fmt.Fprintf(&b, "- **%s**: %s.\n", md.Name(), strings.Join(fields, ", "))
	}
	data, err := os.ReadFile("json.md")
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(data), referenceMark)
	if !ok {
		t.Fatal("json.md has lost its heading of messages")
	}
	if *update {
		if err := os.WriteFile("json.md", []byte(head+b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if referenceMark+rest != b.String() {
		t.Error("json.md does not list the fields as they are; run go test ./client/render -update")
	}
}
