package fsm

import (
	"fmt"
	"strings"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

func TestNewTerm(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.newTerm(5)
	if s := r.snap(); s.Term() != 5 || s.Leader().Name != "c1" || s.Leader().Term != 5 {
		t.Errorf("leader = %+v", s.Leader())
	}
	for term, line := range map[uint64]string{4: "term: 4 is over, the term is 5", 0: "term: 0 is over, the term is 5"} {
		e := &raftlogv1.Entry{Op: &raftlogv1.Entry_NewTerm{NewTerm: &raftlogv1.NewTerm{Term: term, LeaderId: "x"}}}
		wantRefusal(t, r.apply(e).Err, model.Conflict, line)
	}
	e := &raftlogv1.Entry{Op: &raftlogv1.Entry_NewTerm{NewTerm: &raftlogv1.NewTerm{Term: 6}}}
	wantRefusal(t, r.apply(e).Err, model.Invalid, "server_id: is empty or too long")
	// A leader that does not know whether its announcement was committed says it again.
	r.newTerm(5)
}

func server(id string, retired bool) *raftlogv1.Entry {
	return &raftlogv1.Entry{Op: &raftlogv1.Entry_ServerChange{ServerChange: &raftlogv1.ServerChange{ServerId: id, Name: "name-" + id, Retired: retired}}}
}

func TestServers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, id := range []string{"b", "a", "c"} {
		r.ok(server(id, false))
	}
	r.ok(server("b", true))
	r.ok(server("b", true))
	var got []string
	for _, s := range r.snap().Servers() {
		got = append(got, fmt.Sprint(s.GetServerId(), s.GetRetired()))
	}
	if strings.Join(got, " ") != "afalse btrue cfalse" {
		t.Errorf("servers = %v", got)
	}
	wantRefusal(t, r.apply(server("b", false)).Err, model.Conflict, `server_id: "b" is retired; wipe that controller's data and start it with --join, which gives it a new id`)
	wantRefusal(t, r.apply(server("", false)).Err, model.Invalid, "server_id: is empty or too long")
	for i := range model.MaxServers - 3 {
		r.ok(server(fmt.Sprintf("s%d", i), true))
	}
	wantRefusal(t, r.apply(server("one-more", false)).Err, model.Exhausted, "server_id: 1024 controllers were ever known, the limit")
	r.ok(server("a", false))
}

func TestSetPolicy(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a := &fettlev1.ClusterPolicy{Partitions: []*fettlev1.Partition{{Name: "gpu", Nodes: "n[1-2]", IsDefault: true}}}
	r.ok(policyOp(clone(a)))
	s := r.snap()
	if s.Policy().GetVersion() != 1 || s.DefaultPartition().GetName() != "gpu" || !s.Partition("gpu").Allows("n2") || s.Partition("gpu").Allows("n3") || s.Partition("main") != nil {
		t.Errorf("policy = %v", s.Policy())
	}
	b := clone(a)
	b.Version = 1
	r.ok(policyOp(clone(b)))
	wantRefusal(t, r.apply(policyOp(b)).Err, model.Conflict, "version: 1 is not the stored version 2; read the policy again and repeat the change")
	a.Partitions = append(a.Partitions, &fettlev1.Partition{Name: "gpu"})
	wantRefusal(t, r.apply(policyOp(a)).Err, model.Invalid, `partition "gpu": is defined twice; keep one`)
	byUser := policyOp(&fettlev1.ClusterPolicy{})
	byUser.Actor = alice
	wantRefusal(t, r.apply(byUser).Err, model.Denied, "only admins may do that; ask an admin")
	if v := r.snap().Policy().GetVersion(); v != 2 {
		t.Errorf("version %d", v)
	}
	// Without partitions the one for everything is back.
	r.ok(policyOp(&fettlev1.ClusterPolicy{}))
	if p := r.snap().DefaultPartition(); p == nil || p.GetName() != "main" || !p.Allows("anything") {
		t.Errorf("default = %v", p)
	}
}

func checkpoint(index uint64, hash []byte) *raftlogv1.Entry {
	return &raftlogv1.Entry{Op: &raftlogv1.Entry_HashCheckpoint{HashCheckpoint: &raftlogv1.HashCheckpoint{Index: index, Hash: hash}}}
}

// A replica whose state differs from the leader's stops (R11).
func TestHashCheckpoint(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.submit(script(1, 1, 0))
	s := r.snap()
	h := s.Hash()
	r.submit(script(1, 1, 0))
	r.ok(checkpoint(s.Index(), h[:]))
	// An index that is not known here says nothing.
	r.ok(checkpoint(s.Index()+1000, []byte("x")))
	h[0] ^= 1
	before := r.snap().Hash()
	if res := r.apply(checkpoint(s.Index(), h[:])); res.Err == nil || res.Err.Kind != model.Internal {
		t.Errorf("result = %+v", res)
	}
	want := "66: this controller's state differs from the leader's at index 1; wipe its data and start it with --join"
	if len(r.fatal) != 1 || r.fatal[0] != want {
		t.Errorf("fatal = %q", r.fatal)
	}
	// Should the process live on, it does nothing more.
	if res := r.apply(&raftlogv1.Entry{Actor: alice, Op: submitOp("z", script(1, 1, 0))}); res.Err == nil || r.snap().Hash() != before {
		t.Errorf("a stopped replica went on: %+v", res)
	}
	if _, err := r.f.Snapshot(); err == nil {
		t.Error("a stopped replica made a snapshot")
	}
}

func TestCheckpointDue(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.f.cfg.CheckpointEvery = 3
	for i, due := range []bool{false, false, false, true} {
		if i > 0 {
			r.submit(script(1, 1, 0))
		}
		if got := r.f.CheckpointDue() != nil; got != due {
			t.Errorf("after %d entries: due %v", i, got)
		}
	}
	c := r.f.CheckpointDue()
	r.ok(&raftlogv1.Entry{Op: &raftlogv1.Entry_HashCheckpoint{HashCheckpoint: c}})
	if len(r.fatal) > 0 || r.f.CheckpointDue() != nil {
		t.Errorf("right after a checkpoint: due %v, fatal %v", r.f.CheckpointDue(), r.fatal)
	}
}
