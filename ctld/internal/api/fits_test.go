package api

import (
	"slices"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// A request that nothing registered could meet is warned of with one line for each cause, which names the flag; it is
// accepted all the same, because nodes may register later.
func TestWarningsNameTheCause(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for _, n := range []struct {
		name string
		cpus uint32
		mem  int64
		gpus []string // types by index, "-" before that of an unhealthy one
	}{{"n1", 8, 64 << 10, []string{"a100", "a100", "a100", "a100"}}, {"n2", 4, 32 << 10, []string{"l40", "-l40"}}, {"n3", 2, 8 << 10, nil}} {
		inv := &fettlev1.Inventory{Cpus: n.cpus, MemoryMib: n.mem}
		for i, typ := range n.gpus {
			g := &fettlev1.GPU{Index: uint32(i), Uuid: "GPU-" + n.name + "-" + string(rune('0'+i)), Type: typ}
			if typ[0] == '-' {
				g.Type, g.Unhealthy = typ[1:], true
			}
			inv.Gpus = append(inv.Gpus, g)
		}
		c.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_NodeHello{NodeHello: &raftlogv1.NodeHello{Node: n.name, BootId: "boot", Inventory: inv}}})
	}
	c.must(&raftlogv1.Entry{Actor: &raftlogv1.Actor{Admin: true}, Op: &raftlogv1.Entry_SetPolicy{SetPolicy: &fettlev1.ClusterPolicy{
		Partitions: []*fettlev1.Partition{{Name: "main", IsDefault: true}, {Name: "dev", Nodes: "n[2-3]"}, {Name: "far", Nodes: "f[1-9]"}}}}})
	gpus := func(s *fettlev1.JobSpec, typ string, n uint32) {
		s.GpusPerNode = &fettlev1.GPURequest{Type: typ, Count: n}
	}
	const waits = ": the job waits until nodes register that can hold it"
	for name, tt := range map[string]struct {
		change func(*fettlev1.JobSpec)
		want   []string
	}{
		"fits":           {func(s *fettlev1.JobSpec) { gpus(s, "a100", 4); s.CpusPerNode, s.MemMibPerNode = 8, 64<<10 }, nil},
		"no such node":   {func(s *fettlev1.JobSpec) { s.Nodelist = []string{"n9"} }, []string{"-w: no node n9 (there are n1, n2, n3)" + waits}},
		"no such nodes":  {func(s *fettlev1.JobSpec) { s.Nodelist = []string{"n8", "n9"} }, []string{"-w: no nodes n8, n9 (there are n1, n2, n3)" + waits}},
		"one name wrong": {func(s *fettlev1.JobSpec) { s.Nodelist = []string{"n1", "n9"} }, []string{"-w: no node n9 (there are n1, n2, n3)"}},
		"a wrong name excluded": {func(s *fettlev1.JobSpec) { s.Exclude = []string{"n9"} },
			[]string{"-x: no node n9 (there are n1, n2, n3)"}},
		"all excluded":  {func(s *fettlev1.JobSpec) { s.Exclude = []string{"n1", "n2", "n3"} }, []string{"-x: leaves no node, the job asks for 1" + waits}},
		"too many CPUs": {func(s *fettlev1.JobSpec) { s.CpusPerNode = 64 }, []string{"--cpus 64: the largest node has 8" + waits}},
		"too many CPUs on two": {func(s *fettlev1.JobSpec) { s.CpusPerNode, s.Nodes = 8, 2 },
			[]string{"--cpus 8: only 1 node can meet that, the job asks for 2" + waits}},
		"too much memory": {func(s *fettlev1.JobSpec) { s.MemMibPerNode = 640 << 10 }, []string{"--mem 640G: the largest node has 64G" + waits}},
		"no such type":    {func(s *fettlev1.JobSpec) { gpus(s, "h100", 2) }, []string{"--gpus h100:2: no node has GPUs of type h100 (there are a100, l40)" + waits}},
		"too many GPUs":   {func(s *fettlev1.JobSpec) { gpus(s, "a100", 5) }, []string{"--gpus a100:5: the most that one node has is 4" + waits}},
		"too many of any": {func(s *fettlev1.JobSpec) { gpus(s, "", 8) },
			[]string{"--gpus 8: the most of one type that a node has is 4, not counting unhealthy ones" + waits}},
		"no GPUs at all": {func(s *fettlev1.JobSpec) { gpus(s, "", 1); s.Nodelist = []string{"n3"} }, []string{"--gpus 1: no node has GPUs" + waits}},
		"unhealthy":      {func(s *fettlev1.JobSpec) { gpus(s, "l40", 2) }, []string{"--gpus l40:2: the most that one node has is 1, not counting unhealthy ones" + waits}},
		"no such index": {func(s *fettlev1.JobSpec) { gpus(s, "", 1); s.DeviceIndexes = []uint32{7} },
			[]string{"--device cuda:7: no node has a healthy GPU of that index, the highest is cuda:3" + waits}},
		"no such GPU": {func(s *fettlev1.JobSpec) { gpus(s, "", 1); s.DeviceUuids = []string{"GPU-x"} },
			[]string{"--device GPU-x: none of the nodes that it may use has that GPU (finfo -v lists them)" + waits}},
		"partition too small": {func(s *fettlev1.JobSpec) { s.Partition, s.Nodes = "dev", 3 }, []string{"--nodes 3: partition dev has 2 nodes" + waits}},
		"partition empty":     {func(s *fettlev1.JobSpec) { s.Partition = "far" }, []string{"--nodes 1: partition far has no node" + waits}},
		"outside the partition": {func(s *fettlev1.JobSpec) { s.Partition = "dev"; gpus(s, "a100", 1) },
			[]string{"--gpus a100:1: no node has GPUs of type a100 (there are l40)" + waits}},
		"two causes": {func(s *fettlev1.JobSpec) { gpus(s, "h100", 1); s.CpusPerNode = 64 },
			[]string{"--cpus 64: the largest node has 8", "--gpus h100:1: no node has GPUs of type h100 (there are a100, l40)" + waits}},
		"only together": {func(s *fettlev1.JobSpec) { gpus(s, "l40", 1); s.CpusPerNode = 8 },
			[]string{"no node has all of what it asks for (finfo shows what there is)" + waits}},
	} {
		spec := script()
		tt.change(spec)
		resp, err := c.leader.client.SubmitJobs(c.as(ada), &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{{RequestId: c.requestID(), Spec: spec}}})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r := resp.GetResults()[0]
		if r.GetError() != nil || r.GetJobId() == 0 || !slices.Equal(r.GetWarnings(), tt.want) {
			t.Errorf("%s: %v\n%q, want\n%q", name, r.GetError(), r.GetWarnings(), tt.want)
		}
	}
}

// What contradicts itself is refused: no node that could ever register would change it.
func TestPinsAndCountsThatDisagree(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	spec := func(nodes, gpus uint32, idx []uint32, uuids ...string) *fettlev1.JobSpec {
		s := script()
		s.Nodes, s.GpusPerNode, s.DeviceIndexes, s.DeviceUuids = nodes, &fettlev1.GPURequest{Count: gpus}, idx, uuids
		return s
	}
	for _, tt := range []struct {
		spec *fettlev1.JobSpec
		want string
	}{
		{spec(1, 2, []uint32{3}), "device: names 1 GPU, the job asks for 2; name all of them, or ask for as many GPUs as you name"},
		{spec(2, 2, []uint32{3}), "device: names 1 GPU on each node, the job asks for 2; name all of them, or ask for as many GPUs as you name"},
		{spec(2, 1, nil, "GPU-a"), "device: names 1 GPU, the job asks for 2; name all of them, or ask for as many GPUs as you name"},
		{spec(1, 1, []uint32{3}), ""},
		{spec(2, 2, []uint32{0, 1}), ""},
		{spec(2, 1, nil, "GPU-a", "GPU-b"), ""},
	} {
		if got := text(submitOne(c, ada, tt.spec)); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
	// The log takes what it took before.
	if fe := model.ValidateSpec(spec(1, 2, []uint32{3})); fe != nil && fe.Field == "device" {
		t.Errorf("a job that is in the log would be refused: %v", fe)
	}
}
