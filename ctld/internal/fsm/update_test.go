package fsm

import (
	"testing"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
)

func TestUpdateJobChangesEachField(t *testing.T) {
	t.Parallel()
	r := up(t)
	r.ok(policyOp(&fettlev1.ClusterPolicy{Partitions: []*fettlev1.Partition{{Name: "a", IsDefault: true}, {Name: "b"}}}))
	id := r.submit(script(1, 1, 0))
	before := r.job(id)
	r.ok(updateJobOp(&fettlev1.UpdateJobRequest{
		JobId: id, Priority: proto.Uint32(1), TimeLimitS: proto.Int64(60), Partition: proto.String("b"), Name: proto.String("new"),
		Comment: proto.String("why"), BeginMs: proto.Int64(r.now + 9000), Retries: proto.Uint32(0), NoRequeue: proto.Bool(true), Nodelist: []string{"n1", "n2"},
	}))
	s := r.job(id).Spec
	if s.GetPriority() != 1 || s.GetTimeLimitS() != 60 || s.GetPartition() != "b" || s.GetName() != "new" || s.GetComment() != "why" ||
		s.GetBeginMs() != r.now+9000 || s.Retries == nil || s.GetRetries() != 0 || !s.GetNoRequeue() || len(s.GetNodelist()) != 2 {
		t.Errorf("spec = %v", s)
	}
	if string(s.GetScript()) != string(before.Spec.GetScript()) || s.GetMethod() != before.Spec.GetMethod() {
		t.Error("what was not named has changed")
	}
	if j := r.job(id); j.Reason != fettlev1.Reason_REASON_BEGIN_TIME || j.EligibleMS != r.now+9000 {
		t.Errorf("job = %+v", j)
	}
	if before.Spec.GetPriority() != 5 || before.Spec.GetPartition() != "a" {
		t.Error("the row before was changed")
	}
	r.ok(updateJobOp(&fettlev1.UpdateJobRequest{JobId: id, ClearNodelist: true}))
	if s := r.job(id).Spec; len(s.GetNodelist()) != 0 || s.GetPriority() != 1 {
		t.Errorf("spec = %v", s)
	}
}

func TestUpdateJobRefusals(t *testing.T) {
	t.Parallel()
	active := func(field string) string {
		return field + ": cannot be changed while job 3 is RUNNING; requeue the job first"
	}
	for name, c := range map[string]struct {
		u    *fettlev1.UpdateJobRequest
		kind model.Kind
		line string
	}{
		"unknown job":           {&fettlev1.UpdateJobRequest{JobId: 99, Priority: proto.Uint32(1)}, model.NotFound, "job: 99 does not exist; see fqueue for the jobs there are"},
		"finished":              {&fettlev1.UpdateJobRequest{JobId: 6, Priority: proto.Uint32(1)}, model.Conflict, "job: 6 has already ended (COMPLETED); submit it again with the new settings"},
		"being cancelled":       {&fettlev1.UpdateJobRequest{JobId: 4, Priority: proto.Uint32(1)}, model.Conflict, "job: 4 is being cancelled"},
		"nothing":               {&fettlev1.UpdateJobRequest{JobId: 1}, model.Invalid, "job: nothing to change was named; name a field and its new value"},
		"priority 0":            {&fettlev1.UpdateJobRequest{JobId: 1, Priority: proto.Uint32(0)}, model.Invalid, "priority: 0 is out of range; use 1 (most urgent) to 10"},
		"priority 11":           {&fettlev1.UpdateJobRequest{JobId: 1, Priority: proto.Uint32(11)}, model.Invalid, "priority: 11 is out of range; use 1 (most urgent) to 10"},
		"negative limit":        {&fettlev1.UpdateJobRequest{JobId: 1, TimeLimitS: proto.Int64(-1)}, model.Invalid, "time: is negative; use a limit such as 2:00:00"},
		"unknown partition":     {&fettlev1.UpdateJobRequest{JobId: 1, Partition: proto.String("x")}, model.Invalid, `partition: "x" does not exist; use main`},
		"empty name":            {&fettlev1.UpdateJobRequest{JobId: 1, Name: proto.String("")}, model.Invalid, "name: is empty; give a name"},
		"set and clear":         {&fettlev1.UpdateJobRequest{JobId: 1, Nodelist: []string{"n1"}, ClearNodelist: true}, model.Invalid, "nodelist: is both set and cleared; do one or the other"},
		"partition of running":  {&fettlev1.UpdateJobRequest{JobId: 3, Partition: proto.String("main")}, model.Conflict, active("partition")},
		"begin of running":      {&fettlev1.UpdateJobRequest{JobId: 3, BeginMs: proto.Int64(5)}, model.Conflict, active("begin")},
		"nodelist of running":   {&fettlev1.UpdateJobRequest{JobId: 3, Nodelist: []string{"n1"}}, model.Conflict, active("nodelist")},
		"no-requeue of running": {&fettlev1.UpdateJobRequest{JobId: 3, NoRequeue: proto.Bool(false)}, model.Conflict, active("no-requeue")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := inEachState(t)
			hash := r.snap().Counts()
			row := r.snap().Job(c.u.GetJobId())
			wantRefusal(t, r.apply(updateJobOp(c.u)).Err, c.kind, c.line)
			if r.snap().Job(c.u.GetJobId()) != row || r.snap().Counts() != hash {
				t.Error("a refused update changed something")
			}
		})
	}
}

func TestUpdateRunningJob(t *testing.T) {
	t.Parallel()
	r := inEachState(t)
	r.ok(updateJobOp(&fettlev1.UpdateJobRequest{JobId: 3, TimeLimitS: proto.Int64(7200), Priority: proto.Uint32(2), Name: proto.String("x"), Retries: proto.Uint32(5)}))
	if s := r.job(3).Spec; s.GetTimeLimitS() != 7200 || s.GetPriority() != 2 || s.GetName() != "x" || s.GetRetries() != 5 {
		t.Errorf("spec = %v", s)
	}
	r.wantState(3, model.Running)
}

// The policy's limits bind an update as they bind a submit.
func TestUpdateIsHeldToTheLimits(t *testing.T) {
	t.Parallel()
	r := up(t)
	r.ok(policyOp(&fettlev1.ClusterPolicy{Partitions: []*fettlev1.Partition{{Name: "a", IsDefault: true, MaxTimeS: 60}}}))
	id := r.submit(script(1, 1, 0))
	err := r.apply(updateJobOp(&fettlev1.UpdateJobRequest{JobId: id, TimeLimitS: proto.Int64(61)})).Err
	wantRefusal(t, err, model.Invalid, "time: 61 s is above the 60 s of partition a; use a shorter limit or another partition")
}

func TestUpdateOncePerRequest(t *testing.T) {
	t.Parallel()
	r := up(t)
	id := r.submit(script(1, 1, 0))
	update := func(rid string, p uint32) *Result {
		return r.apply(updateJobOp(&fettlev1.UpdateJobRequest{RequestId: rid, JobId: id, Priority: proto.Uint32(p)}))
	}
	update("a", 1)
	update("b", 2)
	if res := update("a", 1); !res.Duplicate || res.Err != nil {
		t.Errorf("repeat = %+v", res)
	}
	if p := r.job(id).Spec.GetPriority(); p != 2 {
		t.Errorf("the repeat was carried out again: priority %d", p)
	}
	wantRefusal(t, update("a", 3).Err, model.Conflict, "request_id: was used before for a different request; use a new one for each request")
}
