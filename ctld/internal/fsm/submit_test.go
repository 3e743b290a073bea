package fsm

import (
	"fmt"
	"strings"
	"testing"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

func TestSubmitFillsDefaults(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.submit(&fettlev1.JobSpec{Script: []byte("#!/bin/sh\n")})
	j := r.job(id)
	s := j.Spec
	if id != 1 || j.State != model.Pending || j.User != "alice" || j.UID != 1001 || j.SubmitMS != r.now || j.EligibleMS != r.now {
		t.Errorf("job = %+v", j)
	}
	if s.GetPriority() != 5 || s.GetNodes() != 1 || s.GetCpusPerNode() != 1 || s.GetRetries() != 2 || s.GetKillGraceS() != 30 ||
		s.GetMethod() != "script" || s.GetPartition() != "main" || s.GetName() != "script" {
		t.Errorf("spec = %v", s)
	}
	if next := r.submit(script(1, 1, 0)); next != 2 {
		t.Errorf("the second job is %d", next)
	}
}

func TestSubmitWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	held := script(1, 1, 0)
	held.Hold = true
	if j := r.job(r.submit(held)); !j.Held || j.Reason != fettlev1.Reason_REASON_HELD_BY_USER || j.EligibleMS != 0 {
		t.Errorf("held job = %+v", j)
	}
	later := script(1, 1, 0)
	later.BeginMs = r.now + 5000
	if j := r.job(r.submit(later)); j.Reason != fettlev1.Reason_REASON_BEGIN_TIME || j.EligibleMS != r.now+5000 {
		t.Errorf("later job = %+v", j)
	}
}

// A repeated request id makes no second job (I7), whatever happened in between, and another user's is another key.
func TestSubmitOncePerRequest(t *testing.T) {
	t.Parallel()
	r := up(t, "n1")
	submit := func(a *raftlogv1.Actor, rid string, s *fettlev1.JobSpec) SubmitOutcome {
		t.Helper()
		return r.ok(&raftlogv1.Entry{Actor: a, Op: submitOp(rid, s)}).Submit[0]
	}
	first := submit(alice, "k", script(1, 1, 0))
	if first.JobID != 1 || first.Duplicate || first.Err != nil {
		t.Fatalf("first = %+v", first)
	}
	if again := submit(alice, "k", script(1, 1, 0)); again.JobID != 1 || !again.Duplicate {
		t.Errorf("repeat = %+v", again)
	}
	// What a client leaves out and what it writes as the default are the same request.
	explicit := script(1, 1, 0)
	explicit.Priority, explicit.Method = 5, "script"
	if again := submit(alice, "k", explicit); again.JobID != 1 || !again.Duplicate {
		t.Errorf("repeat with explicit defaults = %+v", again)
	}
	other := submit(alice, "k", script(1, 2, 0))
	wantRefusal(t, other.Err, model.Conflict, "request_id: was used before for a different job; use a new one for each submit")
	if theirs := submit(bob, "k", script(1, 1, 0)); theirs.JobID != 2 || theirs.Duplicate {
		t.Errorf("bob's = %+v", theirs)
	}
	r.ok(cancelOp(1))
	if again := submit(alice, "k", script(1, 1, 0)); again.JobID != 1 || !again.Duplicate {
		t.Errorf("repeat after the end = %+v", again)
	}
	r.ok(purgeOp(1))
	if again := submit(alice, "k", script(1, 1, 0)); again.JobID != 1 || !again.Duplicate {
		t.Errorf("repeat after a purge = %+v", again)
	}
	other = submit(alice, "k", script(1, 2, 0))
	wantRefusal(t, other.Err, model.Conflict, "request_id: was used before for a different job; use a new one for each submit")
	if r.snap().Counts().Total() != 1 {
		t.Errorf("%d jobs", r.snap().Counts().Total())
	}
}

// Within one entry the second item of the same key is a repeat too, and refused items do not refuse the others.
func TestSubmitItemsStandAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	bad := script(1, 1, 0)
	bad.Priority = 11
	res := r.ok(&raftlogv1.Entry{Actor: alice, Op: &raftlogv1.Entry_Submit{Submit: &raftlogv1.SubmitJobs{Jobs: []*fettlev1.JobSubmission{
		{RequestId: "a", Spec: script(1, 1, 0)}, {RequestId: "b", Spec: bad}, {RequestId: "a", Spec: script(1, 1, 0)}, {RequestId: "c", Spec: script(1, 1, 0)},
	}}}})
	got := res.Submit
	if got[0].JobID != 1 || got[1].JobID != 0 || got[2].JobID != 1 || !got[2].Duplicate || got[3].JobID != 2 {
		t.Errorf("outcomes = %+v", got)
	}
	wantRefusal(t, got[1].Err, model.Invalid, "priority: 11 is out of range; use 1 (most urgent) to 10")
}

func TestSubmitRefusals(t *testing.T) {
	t.Parallel()
	policy := &fettlev1.ClusterPolicy{Partitions: []*fettlev1.Partition{
		{Name: "gpu", Nodes: "n[1-4]", MaxTimeS: 3600, DefaultTimeS: 600}, {Name: "cpu", Nodes: "c[1-2]"},
	}}
	for name, c := range map[string]struct {
		actor  *raftlogv1.Actor
		rid    string
		change func(s *fettlev1.JobSpec)
		kind   model.Kind
		line   string
	}{
		"no request id":     {rid: "-", line: "request_id: is empty; send one that is unique for each request"},
		"odd request id":    {rid: "a b", line: "request_id: holds a space or an unprintable character; use letters, digits and punctuation"},
		"no partition":      {change: func(s *fettlev1.JobSpec) { s.Partition = "" }, line: "partition: is missing and the cluster has no default one; use gpu, cpu"},
		"unknown partition": {change: func(s *fettlev1.JobSpec) { s.Partition = "gpus" }, line: `partition: "gpus" does not exist; use gpu, cpu`},
		"above max time":    {change: func(s *fettlev1.JobSpec) { s.TimeLimitS = 3601 }, line: "time: 3601 s is above the 3600 s of partition gpu; use a shorter limit or another partition"},
		"foreign nodelist":  {change: func(s *fettlev1.JobSpec) { s.Nodelist = []string{"c1"} }, line: "nodelist: has only 0 of the 1 nodes asked for in partition gpu; name nodes of that partition, or choose another"},
		"no spec":           {change: nil, rid: "nil", line: "spec: is missing; send a job specification"},
		"no script":         {change: func(s *fettlev1.JobSpec) { s.Script = nil }, line: "script: is empty; give a script, or a training config with a method"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.ok(policyOp(clone(policy)))
			s := script(1, 1, 0)
			s.Partition = "gpu"
			if c.change != nil {
				c.change(s)
			}
			rid := c.rid
			switch rid {
			case "":
				rid = "r"
			case "-":
				rid = ""
			case "nil":
				s = nil
			}
			out := r.ok(&raftlogv1.Entry{Actor: alice, Op: submitOp(rid, s)}).Submit[0]
			wantRefusal(t, out.Err, c.kind, c.line)
			if r.snap().Counts().Total() != 0 {
				t.Error("a refused job was stored")
			}
		})
	}
}

func TestSubmitRefusedWhole(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	many := &raftlogv1.SubmitJobs{}
	for i := range model.MaxSubmitsPerEntry + 1 {
		many.Jobs = append(many.Jobs, &fettlev1.JobSubmission{RequestId: fmt.Sprint(i), Spec: script(1, 1, 0)})
	}
	for name, c := range map[string]struct {
		entry *raftlogv1.Entry
		kind  model.Kind
		line  string
	}{
		"empty":      {&raftlogv1.Entry{Actor: alice, Op: &raftlogv1.Entry_Submit{Submit: &raftlogv1.SubmitJobs{}}}, model.Invalid, "jobs: is empty; submit at least one job"},
		"too many":   {&raftlogv1.Entry{Actor: alice, Op: &raftlogv1.Entry_Submit{Submit: many}}, model.Invalid, "jobs: 1001 in one request, the limit is 1000; split the request"},
		"nobody":     {&raftlogv1.Entry{Op: submitOp("r", script(1, 1, 0))}, model.Denied, "user: the caller has no usable user name"},
		"no name":    {&raftlogv1.Entry{Actor: &raftlogv1.Actor{Uid: 5}, Op: submitOp("r", script(1, 1, 0))}, model.Denied, "user: the caller has no usable user name"},
		"long name":  {&raftlogv1.Entry{Actor: &raftlogv1.Actor{User: strings.Repeat("x", 300)}, Op: submitOp("r", script(1, 1, 0))}, model.Denied, "user: the caller has no usable user name"},
		"other kind": {&raftlogv1.Entry{Actor: alice, Op: &raftlogv1.Entry_Submit{}}, model.Invalid, "jobs: is empty; submit at least one job"},
	} {
		before := r.snap().NextJobID()
		wantRefusal(t, r.apply(c.entry).Err, c.kind, c.line)
		if r.snap().NextJobID() != before {
			t.Errorf("%s: a number was used up", name)
		}
	}
}

func TestSubmitTakesPartitionDefaults(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.ok(policyOp(&fettlev1.ClusterPolicy{Partitions: []*fettlev1.Partition{
		{Name: "gpu", IsDefault: true, MaxTimeS: 3600, DefaultTimeS: 600}, {Name: "long", MaxTimeS: 7200}, {Name: "free"},
	}}))
	for partition, want := range map[string]int64{"": 600, "gpu": 600, "long": 7200, "free": 0} {
		s := script(1, 1, 0)
		s.Partition = partition
		if got := r.job(r.submit(s)).Spec.GetTimeLimitS(); got != want {
			t.Errorf("partition %q gives %d s, want %d", partition, got, want)
		}
	}
}
