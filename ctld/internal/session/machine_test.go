package session

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

func TestHelloIsRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		hello *fettlev1.Hello
		want  string
	}{
		"another cluster": {&fettlev1.Hello{ClusterId: "d", Node: "n1"}, "node n1 belongs to cluster d, this is c: give it an empty state_dir to join here"},
		"a later term":    {&fettlev1.Hello{ClusterId: "c", Node: "n1", LastTerm: 4}, "node n1 has obeyed term 4, this leader's is 3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTable(t).lead(3, 0)
			if _, _, err := r.m.Hello(tc.hello); err == nil || err.Error() != tc.want {
				t.Errorf("answer %v, want %q", err, tc.want)
			}
		})
	}
}

func TestHelloOpensASessionOnceItIsCommitted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.hello("n1")
	r.wantSent(id)
	if r.m.Connected("n1") {
		t.Error("connected before the hello is committed")
	}
	r.commit()
	msgs := r.take(id)
	if len(msgs) != 1 || msgs[0].GetWelcome() == nil {
		t.Fatalf("sent %v, want a welcome", kinds(msgs))
	}
	session := r.snap().Node("n1").Session
	want := &fettlev1.Welcome{ClusterId: "c", Term: 1, Session: session, LeaseTtlMs: times.LeaseMS, HeartbeatMs: times.HeartbeatMS}
	if got := msgs[0].GetWelcome(); !proto.Equal(got, want) || session == 0 {
		t.Errorf("welcome %v, want %v", got, want)
	}
	if !r.m.Connected("n1") || r.m.Connected("n2") {
		t.Error("n1 is not connected, or n2 is")
	}
}

func TestHelloThatIsNotCommitted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.hello("n1")
	r.lose()
	if c := r.closed[id]; c == nil || c.Refused || !strings.Contains(c.Reason, "no quorum") {
		t.Errorf("closed %+v, want it to be tried again", c)
	}
	id, out, _ := r.m.Hello(&fettlev1.Hello{Node: "n1", BootId: "b", Inventory: &fettlev1.Inventory{}})
	r.do(out)
	r.commit()
	if c := r.closed[id]; c == nil || !c.Refused {
		t.Errorf("closed %+v, want it refused: the inventory is empty", c)
	}
	if r.m.Connected("n1") {
		t.Error("connected all the same")
	}
}

// What a node is told when its session opens follows from the log alone, each time anew.
func TestOrdersOfANewSession(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		setup func(r *rig)
		want  []string
	}{
		"dispatched": {func(r *rig) { r.dispatched(nil, "n1") }, []string{"prepare 1.1"}},
		"a gang whose part is prepared": {func(r *rig) {
			r.said("n1", r.dispatched(nil, "n1", "n2"), prepared)
		}, []string{"limit 600 1.1"}},
		"a gang that may start": {func(r *rig) {
			k := r.dispatched(nil, "n1", "n2")
			r.said("n1", k, prepared)
			r.said("n2", k, prepared)
		}, []string{"start 1.1", "limit 600 1.1"}},
		"running": {func(r *rig) { r.said("n1", r.dispatched(nil, "n1"), started) }, []string{"limit 600 1.1"}},
		"being cancelled": {func(r *rig) {
			k := r.dispatched(nil, "n1")
			r.said("n1", k, started)
			r.cancel(k.GetJobId())
		}, []string{"kill 1.1"}},
		"cancelled before it was prepared": {func(r *rig) { r.cancel(r.dispatched(nil, "n1").GetJobId()) }, []string{"kill 1.1"}},
		"ended here, not on the other node": {func(r *rig) {
			k := r.dispatched(nil, "n1", "n2")
			r.said("n1", k, ended)
		}, []string{}},
		"on another node": {func(r *rig) { r.dispatched(nil, "n2") }, []string{}},
		"over":            {func(r *rig) { r.said("n1", r.dispatched(nil, "n1"), ended) }, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "n1", "n2")
			tc.setup(r)
			for range 2 {
				id := r.hello("n1")
				r.commit()
				r.wantSent(id, append([]string{"welcome"}, tc.want...)...)
			}
		})
	}
}

func TestPrepareSaysEverything(t *testing.T) {
	t.Parallel()
	r := newRig(t, "n1", "n2")
	key := r.dispatched(func(s *fettlev1.JobSpec) { s.NoRequeue = true }, "n1", "n2")
	id := r.hello("n2")
	r.commit()
	j := r.snap().Job(key.GetJobId())
	want := &fettlev1.Prepare{
		Key: key, Spec: j.Spec, User: "ada", Uid: 1000, Gid: 1000, Allocation: j.Current().GetNodes()[1], Rank: 1,
		Gang:       []*fettlev1.GangMember{{Node: "n1", Address: "n1.example"}, {Node: "n2", Address: "n2.example"}},
		MasterPort: masterPort(key.GetFence(), j.ID), TimeLimitS: 600,
	}
	got := r.take(id)[1]
	if !proto.Equal(got.GetPrepare(), want) {
		t.Errorf("prepare\n%v, want\n%v", got.GetPrepare(), want)
	}
	if s := r.snap().Node("n2").Session; got.GetSession() != s {
		t.Errorf("the order is of session %d, want %d", got.GetSession(), s)
	}
	if p := want.GetMasterPort(); p < 20_000 || p >= 30_000 {
		t.Errorf("master port %d", p)
	}
}

func TestChangesAreAnsweredOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, "n1", "n2")
	n1, n2 := r.connect("n1"), r.connect("n2")
	key := r.dispatched(nil, "n1", "n2")
	changed := func() { r.do(r.m.Changed([]uint64{key.GetJobId(), 999}, r.snap())) }
	for range 2 {
		changed()
	}
	r.wantSent(n1, "prepare 1.1")
	r.wantSent(n2, "prepare 1.1")
	r.do(r.m.Report(n1, report(key, prepared), r.snap()))
	r.commit()
	changed()
	r.wantSent(n1)
	r.do(r.m.Report(n2, report(key, prepared), r.snap()))
	r.commit()
	for range 2 {
		changed()
	}
	r.wantSent(n1, "start 1.1")
	r.wantSent(n2, "start 1.1")
	r.cancel(key.GetJobId())
	for range 2 {
		changed()
	}
	kill := r.take(n1)
	if len(kill) != 1 || kill[0].GetKill().GetGraceMs() != 7_000 {
		t.Errorf("sent %v, want one kill with a grace of 7 s", kill)
	}
	r.wantSent(n2, "kill 1.1")
}

func TestReports(t *testing.T) {
	t.Parallel()
	type world struct {
		*rig
		conn ConnID
		key  *fettlev1.AttemptKey
	}
	say := func(w world, kind fettlev1.ReportKind) { w.do(w.m.Report(w.conn, report(w.key, kind), w.snap())) }
	for name, run := range map[string]func(t *testing.T, w world){
		"news is proposed once": func(_ *testing.T, w world) {
			say(w, started)
			say(w, started)
			say(w, prepared)
			w.wantWaiting("STARTED 1.1 on n1")
			w.commit()
			say(w, started)
			w.wantWaiting()
			w.wantSent(w.conn)
		},
		"an end is acknowledged when it is committed": func(t *testing.T, w world) {
			say(w, ended)
			say(w, ended)
			w.wantWaiting("ENDED 1.1 on n1")
			w.wantSent(w.conn)
			w.commit()
			acks := w.take(w.conn)
			if len(acks) != 1 || acks[0].GetAck().GetCommittedIndex() != w.snap().Index() {
				t.Errorf("sent %v, want one acknowledgement at index %d", acks, w.snap().Index())
			}
			if j := w.snap().Job(1); !j.Finished() {
				t.Errorf("the job is %s", model.StateName(j.State))
			}
			say(w, ended)
			w.wantSent(w.conn, "ack 1.1")
			w.wantWaiting()
		},
		"an end that is not committed ends the connection": func(t *testing.T, w world) {
			say(w, ended)
			w.lose()
			w.wantSent(w.conn)
			if c := w.closed[w.conn]; c == nil || c.Refused {
				t.Errorf("closed %+v, want the node to come back", c)
			}
			if w.m.Connected("n1") {
				t.Error("still connected")
			}
			// The node repeats it in its next hello.
			id := w.connect("n1", report(w.key, ended))
			w.commit()
			if !w.snap().Job(1).Finished() {
				t.Error("the end was forgotten")
			}
			_ = id
		},
		"an attempt that the log has closed is killed, once a session": func(_ *testing.T, w world) {
			w.said("n1", w.key, ended)
			say(w, started)
			say(w, started)
			w.wantWaiting()
			w.wantSent(w.conn, "kill 1.1")
			say(w, ended)
			w.wantSent(w.conn, "ack 1.1")
		},
		"an attempt of another node is killed here": func(_ *testing.T, w world) {
			other := w.connect("n2")
			w.do(w.m.Report(other, report(w.key, started), w.snap()))
			w.wantWaiting()
			w.wantSent(other, "kill 1.1")
			w.do(w.m.Report(other, report(w.key, ended), w.snap()))
			w.wantSent(other, "ack 1.1")
			if j := w.snap().Job(1); j.State != model.Dispatching {
				t.Errorf("the job is %s through a report of a node that it is not on", model.StateName(j.State))
			}
		},
		"an earlier attempt is killed, not the newest": func(_ *testing.T, w world) {
			w.must(&raftlogv1.Entry{Actor: ada, Op: &raftlogv1.Entry_Requeue{Requeue: &raftlogv1.RequeueJobs{Ids: []uint64{1}}}})
			w.said("n1", w.key, ended)
			w.place(1, "n1")
			say(w, started)
			w.wantWaiting()
			w.wantSent(w.conn, "kill 1.1")
		},
		"what the log has never heard of is left alone": func(_ *testing.T, w world) {
			w.key = &fettlev1.AttemptKey{JobId: 77, Attempt: 1, Fence: w.snap().Index() + 10}
			say(w, started)
			say(w, ended)
			w.wantWaiting()
			w.wantSent(w.conn)
		},
		"a purged job's attempt is left alone, its end acknowledged": func(_ *testing.T, w world) {
			w.said("n1", w.key, ended)
			w.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_Purge{Purge: &raftlogv1.PurgeJobs{Ids: []uint64{1}}}})
			say(w, started)
			w.wantSent(w.conn)
			say(w, ended)
			w.wantSent(w.conn, "ack 1.1")
			w.wantWaiting()
		},
		"a report without a kind says nothing": func(_ *testing.T, w world) {
			say(w, fettlev1.ReportKind_REPORT_KIND_UNSPECIFIED)
			w.wantWaiting()
			w.wantSent(w.conn)
		},
		"of a connection that is gone": func(_ *testing.T, w world) {
			w.m.Disconnected(w.conn)
			say(w, started)
			w.wantWaiting()
		},
		"overlong text is cut": func(t *testing.T, w world) {
			r := report(w.key, ended)
			r.Exit = &fettlev1.Exit{Code: 1, Detail: strings.Repeat("long\n", 1<<20)}
			w.do(w.m.Report(w.conn, r, w.snap()))
			if got := proto.Size(w.waiting[0].Entry); got > 2*model.MaxDetail {
				t.Errorf("the entry has %d bytes", got)
			}
			w.commit()
			w.wantSent(w.conn, "ack 1.1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "n1", "n2")
			conn := r.connect("n1")
			run(t, world{rig: r, conn: conn, key: r.dispatched(nil, "n1")})
		})
	}
}

func TestEarlyReportsWaitForTheSession(t *testing.T) {
	t.Parallel()
	r := newRig(t, "n1")
	key := r.dispatched(nil, "n1")
	id := r.hello("n1")
	r.do(r.m.Report(id, report(key, started), r.snap()))
	r.wantWaiting("hello n1")
	r.commit()
	if !r.snap().Job(1).Current().GetNodes()[0].GetStarted() {
		t.Error("the report was forgotten")
	}
	flood := r.hello("n1")
	for range maxEarly + 1 {
		r.do(r.m.Report(flood, report(key, started), r.snap()))
	}
	if c := r.closed[flood]; c == nil || !c.Refused {
		t.Errorf("closed %+v after %d early reports", c, maxEarly+1)
	}
}

func TestNewestSessionWins(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.connect("n1")
	second := r.connect("n1")
	if r.closed[first] == nil || !r.m.Connected("n1") {
		t.Errorf("closed %v after a second session", r.closed)
	}
	r.m.Disconnected(first)
	if !r.m.Connected("n1") {
		t.Error("the end of the old connection ended the new session")
	}
	// Two hellos on their way: the one that is later in the log wins, whichever is answered first.
	third, fourth := r.hello("n1"), r.hello("n1")
	a, b := r.waiting[0], r.waiting[1]
	r.waiting = nil
	indexA, errA := r.log.ForNodes().Propose(t.Context(), a.Entry)
	indexB, errB := r.log.ForNodes().Propose(t.Context(), b.Entry)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	r.do(r.m.Committed(b, indexB, r.snap(), r.now))
	r.do(r.m.Committed(a, indexA, r.snap(), r.now))
	if r.closed[second] == nil || r.closed[third] == nil || r.closed[fourth] != nil {
		t.Errorf("closed %v, want all but connection %d", r.closed, fourth)
	}
	if got := kinds(r.take(fourth)); len(got) != 1 || got[0] != "welcome" || len(r.take(third)) != 0 {
		t.Errorf("sent %v", got)
	}
}

func TestTimeLimitsReachTheNode(t *testing.T) {
	t.Parallel()
	r := newRig(t, "n1")
	id := r.connect("n1")
	key := r.dispatched(nil, "n1")
	changed := func() { r.do(r.m.Changed([]uint64{1}, r.snap())) }
	limit := func(s int64) {
		r.must(&raftlogv1.Entry{Actor: ada, Op: &raftlogv1.Entry_UpdateJob{UpdateJob: &fettlev1.UpdateJobRequest{JobId: 1, TimeLimitS: &s}}})
		changed()
	}
	changed()
	r.wantSent(id, "prepare 1.1")
	limit(900) // while the node prepares
	r.wantSent(id, "limit 900 1.1")
	r.do(r.m.Report(id, report(key, started), r.snap()))
	r.commit()
	changed()
	r.wantSent(id)
	limit(1200)
	changed()
	r.wantSent(id, "limit 1200 1.1")
	// Changed while the node is away: told when it is back.
	r.m.Disconnected(id)
	limit(1500)
	id = r.hello("n1", report(key, started))
	r.commit()
	r.wantSent(id, "welcome", "limit 1500 1.1")
	r.cancel(1)
	changed()
	r.wantSent(id, "kill 1.1")
}

func TestSignals(t *testing.T) {
	t.Parallel()
	r := newRig(t, "n1", "n2")
	n1 := r.connect("n1")
	k := r.dispatched(nil, "n1")
	if _, all := r.m.Signal(k.GetJobId(), 10, r.snap()); all {
		t.Error("a job that does not run was signalled")
	}
	r.said("n1", k, started)
	out, all := r.m.Signal(k.GetJobId(), 10, r.snap())
	r.do(out)
	if !all {
		t.Error("not everybody was told")
	}
	r.wantSent(n1, "signal 10 1.1")
	gang := r.dispatched(nil, "n1", "n2")
	r.said("n1", gang, prepared)
	r.said("n2", gang, prepared)
	out, all = r.m.Signal(gang.GetJobId(), 12, r.snap())
	r.do(out)
	if all {
		t.Error("n2 is not connected and was told")
	}
	r.wantSent(n1, "signal 12 2.1")
}

func TestInventoriesGoOneByOne(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.connect("n1")
	offer := func(cpus uint32) {
		inv := inventory("n1")
		inv.Cpus = cpus
		r.do(r.m.Inventory(id, inv, r.snap()))
	}
	offer(64) // as it is
	r.wantWaiting()
	offer(32)
	offer(16)
	offer(8)
	r.wantWaiting("inventory 32")
	r.commit()
	if got := r.snap().Node("n1").Inventory.GetCpus(); got != 8 {
		t.Errorf("the log has %d CPUs, want the newest 8", got)
	}
	offer(4)
	r.lose()
	if r.closed[id] == nil {
		t.Error("a lost inventory did not end the connection, whose next hello carries it")
	}
}

func TestElementIsToldWhichItIs(t *testing.T) {
	t.Parallel()
	r := newRig(t, "n1")
	id := r.connect("n1")
	r.take(id)
	res := r.must(&raftlogv1.Entry{Actor: ada, Op: &raftlogv1.Entry_Submit{Submit: &raftlogv1.SubmitJobs{Jobs: []*fettlev1.JobSubmission{{RequestId: "array",
		Spec: &fettlev1.JobSpec{Name: "job", Method: "script", Script: []byte("#!/bin/true\n"), WorkDir: "/w", Nodes: 1,
			Array: &fettlev1.ArraySpec{Ranges: []*fettlev1.ArrayRange{{First: 3, Last: 9, Step: 3}}}}}}}}})
	if res.Submit[0].Err != nil {
		t.Fatal(res.Submit[0].Err)
	}
	array, index := res.Submit[0].JobID, uint32(6)
	out := r.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_Plan{Plan: &raftlogv1.ApplyPlan{Term: 1, Placements: []*raftlogv1.Placement{
		{JobId: array, Attempt: 1, ArrayIndex: &index, Nodes: []*fettlev1.NodeAllocation{{Node: "n1", Cpus: 1}}}}}}}).Placements[0]
	if out.Err != nil {
		t.Fatal(out.Err)
	}
	r.do(r.m.Changed([]uint64{out.Started}, r.snap()))
	for _, msg := range r.take(id) {
		if p := msg.GetPrepare(); p != nil {
			if p.GetKey().GetJobId() == array || p.GetArrayJobId() != array || p.GetArrayIndex() != index {
				t.Errorf("job %d is told that it is %d_%d, want %d_%d", p.GetKey().GetJobId(), p.GetArrayJobId(), p.GetArrayIndex(), array, index)
			}
			return
		}
	}
	t.Error("the element was not ordered")
}
