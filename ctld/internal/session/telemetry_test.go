package session

import (
	"testing"

	"google.golang.org/grpc/codes"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

func TestProgressIsOfWhatTheNodeHas(t *testing.T) {
	t.Parallel()
	sv := newService(t, nil)
	stop := sv.leads(1)
	n1, n2 := sv.join("n1"), sv.join("n2")
	key := sv.dispatched(nil, "n1")
	n1.want("prepare 1.1")
	say := func(n *fakeNode, k *fettlev1.AttemptKey, step int64) {
		n.say(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Progress{Progress: &fettlev1.NodeProgress{Items: []*fettlev1.AttemptProgress{
			{Key: k, Progress: &fettlev1.Progress{Step: step, Attempt: 9}}, {Key: &fettlev1.AttemptKey{JobId: 99, Attempt: 1}, Progress: &fettlev1.Progress{}}, {Key: k},
		}}}})
		n.beat() // answered after what was said before it was taken
		n.want("lease")
	}
	say(n1, key, 5)
	say(n2, key, 6)
	say(n1, &fettlev1.AttemptKey{JobId: 1, Attempt: 1, Fence: key.GetFence() + 1}, 7)
	if p := sv.srv.Progress(1); p.GetStep() != 5 || p.GetAttempt() != 1 {
		t.Errorf("progress %v, want step 5 of attempt 1", p)
	}
	if p := sv.srv.Progress(99); p != nil {
		t.Errorf("progress of a job that does not exist: %v", p)
	}
	n1.reports(key, ended)
	n1.want("ack 1.1")
	say(n1, key, 8)
	if p := sv.srv.Progress(1); p.GetStep() != 8 {
		t.Errorf("the last progress of a finished job is %v", p)
	}
	sv.must(&raftlogv1.Entry{Op: &raftlogv1.Entry_Purge{Purge: &raftlogv1.PurgeJobs{Ids: []uint64{1}}}})
	sv.until("the purged job's progress is forgotten", func() bool { return sv.srv.Progress(1) == nil })
	key = sv.dispatched(nil, "n1")
	n1.want("prepare 2.1")
	say(n1, key, 1)
	stop()
	if sv.srv.Progress(2) != nil {
		t.Error("a former leader has progress to show")
	}
}

func TestProgressOfFinishedJobsIsBounded(t *testing.T) {
	t.Parallel()
	tb := newTable(t, "n1")
	tel := newTelemetry()
	key := tb.dispatched(nil, "n1")
	tel.setProgress("n1", &fettlev1.NodeProgress{Items: []*fettlev1.AttemptProgress{{Key: key, Progress: &fettlev1.Progress{}}}}, tb.snap())
	tb.said("n1", key, ended)
	tel.changed([]uint64{1}, false, tb.snap())
	j := tb.snap().Job(1)
	for id := uint64(2); id <= maxFinished; id++ {
		tel.jobs[id] = progress{newest: &fettlev1.Progress{}}
		tel.settle(id, j)
	}
	if len(tel.jobs) != maxFinished {
		t.Fatalf("%d kept", len(tel.jobs))
	}
	tel.jobs[maxFinished+1] = progress{newest: &fettlev1.Progress{}}
	tel.settle(maxFinished+1, j)
	if _, ok := tel.jobs[1]; ok || len(tel.jobs) != maxFinished || len(tel.finished) != maxFinished {
		t.Errorf("%d kept, the oldest among them: %v", len(tel.jobs), ok)
	}
	tel.changed(nil, true, newTable(t).snap())
	if len(tel.jobs) != 0 {
		t.Errorf("%d kept of a state that has none of them", len(tel.jobs))
	}
}

func TestReadingsAreBounded(t *testing.T) {
	t.Parallel()
	sv := newService(t, func(c *Config) { c.HeartbeatMS = 100 })
	sv.leads(1)
	n := sv.join("n1")
	r := &fettlev1.NodeReadings{}
	for range model.MaxGPUsPerNode + 1 {
		r.Gpus = append(r.Gpus, &fettlev1.GPUReading{Processes: make([]*fettlev1.GPUProcess, 0, 1)})
	}
	for range maxGPUProcesses + 1 {
		r.Gpus[0].Processes = append(r.Gpus[0].Processes, &fettlev1.GPUProcess{})
	}
	n.say(&fettlev1.NodeMessage{Msg: &fettlev1.NodeMessage_Readings{Readings: r}})
	sv.until("the readings are there", func() bool { return sv.srv.Readings("n1") != nil })
	if got := sv.srv.Readings("n1"); len(got) != model.MaxGPUsPerNode || len(got[0].GetProcesses()) != maxGPUProcesses {
		t.Errorf("%d GPUs, %d processes", len(got), len(got[0].GetProcesses()))
	}
	sv.node("n1", fettlev1.NodeAction_NODE_ACTION_DECLARE_DEAD)
	sv.node("n1", fettlev1.NodeAction_NODE_ACTION_REMOVE)
	n.wantEnd(codes.Aborted, "")
	sv.until("a removed node's readings are forgotten", func() bool { return sv.srv.Readings("n1") == nil })
}
