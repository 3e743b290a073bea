package api_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/internal/fakectl"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

// fill sets every field of a message, lists to n elements.
func fill(r *rand.Rand, m protoreflect.Message, n int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.IsList() {
			l := m.Mutable(f).List()
			for range n {
				if f.Message() != nil {
					v := l.NewElement()
					fill(r, v.Message(), n)
					l.Append(v)
				} else {
					l.Append(scalar(r, f))
				}
			}
			continue
		}
		if f.Message() != nil {
			fill(r, m.Mutable(f).Message(), n)
			continue
		}
		m.Set(f, scalar(r, f))
	}
}

func scalar(r *rand.Rand, f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprintf("%s-%d", f.Name(), r.IntN(1000)))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(fmt.Appendf(nil, "%d", r.Uint64()))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(1 + r.IntN(f.Enum().Values().Len()-1)))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(r.NormFloat64())
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(r.Uint32()) | 1)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(r.Uint32() | 1)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(r.Uint64() | 1)
	}
	return protoreflect.ValueOfInt64(int64(r.Uint64()) | 1)
}

// viewed is what a JobView shows of a job.
func viewed(j *fettlev1.Job) *fettlev1.Job {
	j = proto.Clone(j).(*fettlev1.Job)
	if s := j.GetSpec(); s != nil {
		s.Nodelist, s.Exclude, s.DeviceIndexes, s.DeviceUuids, s.Env, s.Script, s.Args, s.Config, s.Set = nil, nil, nil, nil, nil, nil, nil, nil, nil
	}
	if n := len(j.GetAttempts()); n > 1 {
		j.Attempts = j.GetAttempts()[n-1:]
	}
	for _, a := range j.GetAttempts() {
		for i, n := range a.GetNodes() {
			v := &fettlev1.NodeAllocation{Node: n.GetNode(), GpuUuids: n.GetGpuUuids(), VramMib: n.GetVramMib()}
			if e := n.GetExit(); e != nil {
				v.Exit = &fettlev1.Exit{Code: e.GetCode(), Signal: e.GetSignal(), NeverStarted: e.GetNeverStarted(), NodeLost: e.GetNodeLost()}
			}
			a.Nodes[i] = v
		}
	}
	return j
}

// TestJobViewReadsEveryField fails when a field is added to a message and JobView does not know it.
func TestJobViewReadsEveryField(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	var view api.JobView
	for i := range 200 {
		want := &fettlev1.Job{}
		switch {
		case i%5 == 4: // an empty one after a full one: nothing may be left over
			want.Id = uint64(i)
		case i%5 == 3:
			want.Id, want.Spec, want.Progress = 1, &fettlev1.JobSpec{GpusPerNode: &fettlev1.GPURequest{}}, &fettlev1.Progress{}
		default:
			fill(r, want.ProtoReflect(), i%4)
		}
		b, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := view.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(viewed(want), got, protocmp.Transform(), protocmp.IgnoreEmptyMessages()); diff != "" {
			t.Fatalf("job %d (-want +got):\n%s", i, diff)
		}
	}
}

func FuzzJobView(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for n := range 3 {
		j := &fettlev1.Job{}
		fill(r, j.ProtoReflect(), n)
		b, err := proto.Marshal(j)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var view api.JobView
		got, err := view.Decode(b)
		want := &fettlev1.Job{}
		if proto.Unmarshal(b, want) == nil && err == nil && got.GetUser() != want.GetUser() {
			t.Errorf("user %q, want %q", got.GetUser(), want.GetUser())
		}
	})
}

func TestScanJobs(t *testing.T) {
	t.Parallel()
	s := fakectl.Start(t)
	s.PageSize = 10
	for id := range uint64(95) {
		s.Put(&fettlev1.Job{Id: id + 1, State: model.Pending, User: fmt.Sprint("u", id+1)})
	}
	s.Fail("ListPage", fakectl.Fault{Err: unavailable("x")})
	c := client(t, api.Config{Controllers: []string{s.Addr()}})
	n := uint64(0)
	h, err := c.ScanJobs(t.Context(), &fettlev1.ListJobsRequest{}, func(j *fettlev1.Job) error {
		if n++; j.GetId() != n || j.GetUser() != fmt.Sprint("u", n) {
			t.Fatalf("row %d is %v", n, j)
		}
		return nil
	})
	if err != nil || h.GetServerName() != "c1" || n != 95 {
		t.Errorf("%d rows, header %v, %v", n, h, err)
	}
	boom := fmt.Errorf("boom")
	if _, err := c.ScanJobs(t.Context(), &fettlev1.ListJobsRequest{}, func(*fettlev1.Job) error { return boom }); err != boom {
		t.Errorf("got %v", err)
	}
}

func BenchmarkJobView(b *testing.B) {
	j := &fettlev1.Job{Id: 12345, State: model.Pending, Reason: 1, User: "alice", Uid: 1000, Gid: 1000, SubmitMs: 1_700_000_000_000, EligibleMs: 1_700_000_000_000,
		RequestId: "0123456789abcdef0123456789abcdef", ModifiedIndex: 123456,
		Spec: &fettlev1.JobSpec{Name: "train_lora", Method: "lora", Priority: 5, Partition: "main", Nodes: 1, GpusPerNode: &fettlev1.GPURequest{Type: "h100", Count: 4},
			CpusPerNode: 8, TimeLimitS: 36000, WorkDir: "/home/alice/work/lora", StdoutPath: "fettle-%j.out", KillGraceS: 30}}
	data, err := proto.Marshal(j)
	if err != nil {
		b.Fatal(err)
	}
	var view api.JobView
	b.ReportAllocs()
	for b.Loop() {
		if _, err := view.Decode(data); err != nil {
			b.Fatal(err)
		}
	}
}
