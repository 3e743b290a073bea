package api

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/fettle-hpc/fettle/ctld/internal/raftstore"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"
)

// refused is one thing that is refused: what somebody asks for, and the one line that they read.
type refused struct {
	name string
	call func(c *cluster) error
	code codes.Code
	want string
}

// item makes the refusal within an answer an error like that of a whole request.
func item(d *fettlev1.ErrorDetail, err error) error {
	if err != nil || d == nil {
		return err
	}
	return status.Error(codes.OK+100, oneLine(d))
}

const inItem = codes.OK + 100

func submitOne(c *cluster, uid int, spec *fettlev1.JobSpec) error {
	resp, err := c.leader.client.SubmitJobs(c.as(uid), &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{{RequestId: c.requestID(), Spec: spec}}})
	if err != nil {
		return err
	}
	return item(resp.GetResults()[0].GetError(), nil)
}

func actOne(resp *fettlev1.JobActionResponse, err error) error {
	if err != nil {
		return err
	}
	return item(resp.GetResults()[0].GetError(), nil)
}

func sel(ids ...uint64) *fettlev1.JobSelector { return &fettlev1.JobSelector{Ids: ids} }

func update(c *cluster, uid int, u *fettlev1.UpdateJobRequest) error {
	_, err := c.leader.client.UpdateJob(c.as(uid), u)
	return err
}

func ptr[T any](v T) *T { return &v }

// rows of the table. Jobs: 1 waits, 2 runs on n1, 3 is finished, all of ada's.
var refusals = []refused{
	{"submit: nothing", func(c *cluster) error {
		_, err := c.leader.client.SubmitJobs(c.as(ada), &fettlev1.SubmitJobsRequest{})
		return err
	}, codes.InvalidArgument, "jobs: 0 jobs in one request; send 1 to 1000"},
	{"submit: too many", func(c *cluster) error {
		_, err := c.leader.client.SubmitJobs(c.as(ada), &fettlev1.SubmitJobsRequest{Jobs: make([]*fettlev1.JobSubmission, 1001)})
		return err
	}, codes.InvalidArgument, "jobs: 1001 jobs in one request; send 1 to 1000"},
	{"submit: no spec", func(c *cluster) error { return submitOne(c, ada, nil) }, inItem, "spec: is missing; send a job specification"},
	{"submit: no request id", func(c *cluster) error {
		resp, err := c.leader.client.SubmitJobs(c.as(ada), &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{{Spec: script()}}})
		return item(resp.GetResults()[0].GetError(), err)
	}, inItem, "request_id: is empty; send one that is unique for each request"},
	{"submit: a request id with a space", func(c *cluster) error {
		resp, err := c.leader.client.SubmitJobs(c.as(ada), &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{{RequestId: "a b", Spec: script()}}})
		return item(resp.GetResults()[0].GetError(), err)
	}, inItem, "request_id: holds a space or an unprintable character; use letters, digits and punctuation"},
	{"submit: a request id of a megabyte", func(c *cluster) error {
		resp, err := c.leader.client.SubmitJobs(c.as(ada), &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{{RequestId: strings.Repeat("x", 1<<20), Spec: script()}}})
		return item(resp.GetResults()[0].GetError(), err)
	}, inItem, "request_id: is longer than 128 bytes; shorten it"},
	{"submit: more than an entry holds, in fields of a newer version", func(c *cluster) error {
		s := script()
		s.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 2000, protowire.BytesType), make([]byte, 500<<10)))
		return submitOne(c, ada, s)
	}, inItem, "spec: has 512041 bytes, the limit is 462848; put large files where the job can read them"},
	{"submit: a script of a megabyte", func(c *cluster) error {
		s := script()
		s.Script = append([]byte("#!/bin/sh\n"), make([]byte, 1<<20)...)
		return submitOne(c, ada, s)
	}, inItem, "script: is larger than 262144 bytes; keep the bulk in a file that the script reads"},
	{"submit: another job under the same request id", func(c *cluster) error {
		_ = submitOne(c, ada, script())
		other := script()
		other.Name = "other"
		c.req--
		return submitOne(c, ada, other)
	}, inItem, "request_id: was used before for a different job; use a new one for each submit"},
	{"submit: priority 11", func(c *cluster) error { s := script(); s.Priority = 11; return submitOne(c, ada, s) }, inItem, "priority: 11 is out of range; use 1 (most urgent) to 10"},
	{"submit: no such partition", func(c *cluster) error { s := script(); s.Partition = "gold"; return submitOne(c, ada, s) }, inItem, `partition: "gold" does not exist; use main`},
	{"submit: a partition that is no name", func(c *cluster) error { s := script(); s.Partition = "a b"; return submitOne(c, ada, s) }, inItem,
		`partition: "a b" is not a name; use letters, digits, dots, dashes and underscores, starting with a letter or digit`},
	{"submit: 65 GPUs on a node", func(c *cluster) error {
		s := script()
		s.GpusPerNode = &fettlev1.GPURequest{Count: 65}
		return submitOne(c, ada, s)
	}, inItem, "gpus: is above 64 per node; spread the job over more nodes"},
	{"submit: 2³²-1 nodes", func(c *cluster) error { s := script(); s.Nodes = math.MaxUint32; return submitOne(c, ada, s) }, inItem, "nodes: is above 1024; ask for fewer nodes"},
	{"submit: memory below zero", func(c *cluster) error { s := script(); s.MemMibPerNode = -1; return submitOne(c, ada, s) }, inItem, "mem: is negative; use a size such as 16G"},
	{"submit: a name of two lines", func(c *cluster) error { s := script(); s.Name = "a\nb"; return submitOne(c, ada, s) }, inItem, "name: holds a control character; use plain text on one line"},
	{"submit: a config that the launcher refuses", func(c *cluster) error {
		c.launchers.check = func(*fettlev1.JobSpec) (Checked, error) {
			return Checked{Problems: []*fettlev1.ErrorDetail{{Field: "lora_rank", Problem: "line 4: must be above 0", Remedy: "use 8"}}}, nil
		}
		return submitOne(c, ada, &fettlev1.JobSpec{Config: []byte("lora_rank: 0"), WorkDir: "/w"})
	}, inItem, "lora_rank: line 4: must be above 0; use 8"},
	{"submit: no launcher", func(c *cluster) error {
		c.launchers.check = func(*fettlev1.JobSpec) (Checked, error) { return Checked{}, errors.New("no launcher for method dora") }
		return submitOne(c, ada, &fettlev1.JobSpec{Config: []byte("x: y"), Method: "dora", WorkDir: "/w"})
	}, inItem, "method: no launcher for method dora"},
	{"submit: without a quorum", func(c *cluster) error { c.fails(raftstore.ErrUnknown); return submitOne(c, ada, script()) }, codes.Unavailable,
		"leadership changed while the request was on its way; repeat it with the same request id"},
	{"submit: while the leader hands over", func(c *cluster) error { c.fails(raftstore.ErrTransferring); return submitOne(c, ada, script()) }, codes.Unavailable,
		"this controller hands over to another; repeat the request with the same request id"},
	{"submit: too much to do", func(c *cluster) error { c.fails(raftstore.ErrOverloaded); return submitOne(c, ada, script()) }, codes.ResourceExhausted,
		"the controller has too much to do; try again in a moment"},
	{"submit: no longer the leader", func(c *cluster) error {
		c.fails(&raftstore.NotLeaderError{})
		c.leader.raft.set(func() { c.leader.raft.leader = raftstore.Leader{ID: "c2.x", Name: "c2"} })
		c.leader.raft.set(func() { c.leader.raft.leader.Self = true; c.leader.raft.leader.Ready = true })
		return submitOne(c, ada, script())
	}, codes.FailedPrecondition, "this controller is not the leader; ask the leader"},

	{"cancel: nothing named", func(c *cluster) error {
		_, err := c.leader.client.CancelJobs(c.as(ada), &fettlev1.CancelJobsRequest{})
		return err
	}, codes.InvalidArgument, "jobs: no job is named; give job ids, or select with a user, a state or a name"},
	{"cancel: no such job", func(c *cluster) error {
		return actOne(c.leader.client.CancelJobs(c.as(ada), &fettlev1.CancelJobsRequest{Select: sel(99)}))
	}, inItem, "job: 99 does not exist; see fqueue for the jobs there are"},
	{"cancel: another's job", func(c *cluster) error {
		return actOne(c.leader.client.CancelJobs(c.as(bob), &fettlev1.CancelJobsRequest{Select: sel(1)}))
	}, inItem, "job: 1 belongs to another user; ask its owner or an admin"},
	{"cancel: a finished job", func(c *cluster) error {
		return actOne(c.leader.client.CancelJobs(c.as(ada), &fettlev1.CancelJobsRequest{Select: sel(3)}))
	}, inItem, "job: 3 has already ended (COMPLETED)"},
	{"cancel: too many ids", func(c *cluster) error {
		_, err := c.leader.client.CancelJobs(c.as(ada), &fettlev1.CancelJobsRequest{Select: sel(make([]uint64, 100_001)...)})
		return err
	}, codes.InvalidArgument, "jobs: more than 100,000 job ids; name fewer, or select by user or state"},
	{"cancel: too many names", func(c *cluster) error {
		_, err := c.leader.client.CancelJobs(c.as(ada), &fettlev1.CancelJobsRequest{Select: &fettlev1.JobSelector{Names: make([]string, 1001)}})
		return err
	}, codes.InvalidArgument, "name: more than 1,000 values; name fewer"},
	{"cancel: a request id that is none", func(c *cluster) error {
		_, err := c.leader.client.CancelJobs(c.as(ada), &fettlev1.CancelJobsRequest{RequestId: "ä", Select: sel(1)})
		return err
	}, codes.InvalidArgument, "request_id: holds a space or an unprintable character; use letters, digits and punctuation"},
	{"signal: 65", func(c *cluster) error {
		_, err := c.leader.client.CancelJobs(c.as(ada), &fettlev1.CancelJobsRequest{Signal: 65, Select: sel(2)})
		return err
	}, codes.InvalidArgument, "signal: there is no such signal; use a name such as USR1 or a number from 1 to 64"},
	{"signal: a job that waits", func(c *cluster) error {
		return actOne(c.leader.client.CancelJobs(c.as(ada), &fettlev1.CancelJobsRequest{Signal: 10, Select: sel(1)}))
	}, inItem, "job: job 1 is PENDING, not running"},
	{"signal: another's job", func(c *cluster) error {
		return actOne(c.leader.client.CancelJobs(c.as(bob), &fettlev1.CancelJobsRequest{Signal: 10, Select: sel(2)}))
	}, inItem, "job: no such job of yours: 2; fqueue --all lists your jobs"},
	{"signal: a node that is not connected", func(c *cluster) error {
		return actOne(c.leader.client.CancelJobs(c.as(ada), &fettlev1.CancelJobsRequest{Signal: 10, Select: sel(2)}))
	}, inItem, "job: not all nodes of job 2 are connected; send the signal again when finfo shows them"},
	{"hold: a running job", func(c *cluster) error {
		return actOne(c.leader.client.HoldJobs(c.as(ada), &fettlev1.JobActionRequest{Select: sel(2)}))
	}, inItem, "job: 2 is RUNNING and cannot be held; hold works on waiting jobs; requeue it first, or cancel it"},
	{"release: another's job", func(c *cluster) error {
		return actOne(c.leader.client.ReleaseJobs(c.as(bob), &fettlev1.JobActionRequest{Select: sel(1)}))
	}, inItem, "job: 1 belongs to another user; ask its owner or an admin"},
	{"release: what an admin holds", func(c *cluster) error {
		if err := actOne(c.leader.client.HoldJobs(c.ctx, &fettlev1.JobActionRequest{Select: sel(1)})); err != nil {
			return err
		}
		return actOne(c.leader.client.ReleaseJobs(c.as(ada), &fettlev1.JobActionRequest{Select: sel(1)}))
	}, inItem, "job: 1 is held by an admin; ask an admin to release it"},
	{"requeue: a waiting job", func(c *cluster) error {
		return actOne(c.leader.client.RequeueJobs(c.as(ada), &fettlev1.JobActionRequest{RequestId: c.requestID(), Select: sel(1)}))
	}, inItem, "job: 1 is waiting already"},
	{"requeue: a finished job", func(c *cluster) error {
		return actOne(c.leader.client.RequeueJobs(c.as(ada), &fettlev1.JobActionRequest{Select: sel(3)}))
	}, inItem, "job: 3 has already ended (COMPLETED); submit it again"},

	{"update: no such job", func(c *cluster) error {
		return update(c, ada, &fettlev1.UpdateJobRequest{JobId: 99, Priority: ptr(uint32(1))})
	}, codes.NotFound,
		"job: 99 does not exist; see fqueue for the jobs there are"},
	{"update: another's job", func(c *cluster) error {
		return update(c, bob, &fettlev1.UpdateJobRequest{JobId: 1, Priority: ptr(uint32(1))})
	}, codes.PermissionDenied,
		"job: 1 belongs to another user; ask its owner or an admin"},
	{"update: nothing", func(c *cluster) error { return update(c, ada, &fettlev1.UpdateJobRequest{JobId: 1}) }, codes.InvalidArgument, "job: nothing to change was named; name a field and its new value"},
	{"update: priority 0", func(c *cluster) error {
		return update(c, ada, &fettlev1.UpdateJobRequest{JobId: 1, Priority: ptr(uint32(0))})
	}, codes.InvalidArgument,
		"priority: 0 is out of range; use 1 (most urgent) to 10"},
	{"update: priority 2³¹", func(c *cluster) error {
		return update(c, ada, &fettlev1.UpdateJobRequest{JobId: 1, Priority: ptr(uint32(1 << 31))})
	}, codes.InvalidArgument, "priority: 2147483648 is out of range; use 1 (most urgent) to 10"},
	{"update: the partition of a running job", func(c *cluster) error {
		return update(c, ada, &fettlev1.UpdateJobRequest{JobId: 2, Partition: ptr("main")})
	}, codes.FailedPrecondition, "partition: cannot be changed while job 2 is RUNNING; requeue the job first"},
	{"update: a nodelist too long for the log", func(c *cluster) error {
		return update(c, ada, &fettlev1.UpdateJobRequest{JobId: 1, Nodelist: []string{strings.Repeat("n", 1<<20)}})
	}, codes.InvalidArgument, "the request is too large; send less at once"},

	{"get: no such job", func(c *cluster) error {
		_, err := c.leader.client.GetJob(c.as(bob), &fettlev1.GetJobRequest{JobId: 99})
		return err
	}, codes.NotFound, "job: no job 99; fqueue --all lists jobs"},
	{"get: an index that never comes", func(c *cluster) error {
		c.leader.srv.applyWait = 10_000_000
		_, err := c.leader.client.GetJob(c.as(bob), &fettlev1.GetJobRequest{JobId: 1, Read: &fettlev1.ReadOptions{MinIndex: 1 << 62}})
		return err
	}, codes.Unavailable, "this controller has not come to index 4611686018427387904; ask another one, or without an index"},
	{"get: linearizable, no longer the leader", func(c *cluster) error {
		c.leader.raft.set(func() { c.leader.raft.linear = &raftstore.NotLeaderError{} })
		_, err := c.leader.client.GetJob(c.as(bob), &fettlev1.GetJobRequest{JobId: 1, Read: &fettlev1.ReadOptions{Level: fettlev1.ReadLevel_READ_LEVEL_LINEARIZABLE}})
		return err
	}, codes.FailedPrecondition, "this controller is not the leader; ask the leader"},
	{"list: too many states", func(c *cluster) error {
		s, err := c.leader.client.ListJobs(c.as(bob), &fettlev1.ListJobsRequest{Select: &fettlev1.JobSelector{States: make([]fettlev1.JobState, 1001)}})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}, codes.InvalidArgument, "state: more than 1,000 values; name fewer"},
	{"nodes: no such node", func(c *cluster) error {
		_, err := c.leader.client.ListNodes(c.as(bob), &fettlev1.ListNodesRequest{Names: []string{"n1", "n9"}})
		return err
	}, codes.NotFound, "node: no node n9; finfo lists the nodes"},

	{"log: another's job", func(c *cluster) error { return readLog(c, bob, &fettlev1.ReadLogRequest{JobId: 2}) }, codes.NotFound, "job: no such job of yours: 2; fqueue --all lists your jobs"},
	{"log: no such job", func(c *cluster) error { return readLog(c, ada, &fettlev1.ReadLogRequest{JobId: 99}) }, codes.NotFound, "job: no such job of yours: 99; fqueue --all lists your jobs"},
	{"log: no such attempt", func(c *cluster) error { return readLog(c, ada, &fettlev1.ReadLogRequest{JobId: 2, Attempt: 2}) }, codes.NotFound,
		"attempt: job 2 has had 1 attempts; leave the attempt out for the newest"},
	{"log: not on that node", func(c *cluster) error { return readLog(c, ada, &fettlev1.ReadLogRequest{JobId: 2, Node: "n9"}) }, codes.NotFound, "node: attempt 1 did not run on n9"},
	{"log: no stderr", func(c *cluster) error { return readLog(c, ada, &fettlev1.ReadLogRequest{JobId: 2, Stderr: true}) }, codes.NotFound,
		"stderr: the job writes stderr together with stdout; leave --stderr out"},
	{"log: a node that is not connected", func(c *cluster) error { return readLog(c, ada, &fettlev1.ReadLogRequest{JobId: 2}) }, codes.Unavailable,
		"node is not connected: n1; its output can be read again when the node is back"},
	{"log: a tail too long", func(c *cluster) error {
		return readLog(c, ada, &fettlev1.ReadLogRequest{JobId: 2, TailBytes: 1<<20 + 1})
	}, codes.InvalidArgument,
		"tail: is not from 0 to 1 MiB; leave it out to read everything"},
	{"log: an offset below zero", func(c *cluster) error { return readLog(c, ada, &fettlev1.ReadLogRequest{JobId: 2, Offset: -1}) }, codes.InvalidArgument,
		"offset: is negative; count bytes from 0"},
	{"log: an offset and a tail", func(c *cluster) error {
		return readLog(c, ada, &fettlev1.ReadLogRequest{JobId: 2, Offset: 1, TailBytes: 1})
	}, codes.InvalidArgument, "offset: does not go with a tail; leave one of them out"},

	{"node: by a user", func(c *cluster) error {
		_, err := c.leader.client.UpdateNode(c.as(ada), &fettlev1.UpdateNodeRequest{Node: "n1", Action: fettlev1.NodeAction_NODE_ACTION_DRAIN})
		return err
	}, codes.PermissionDenied, adminOnly},
	{"node: no such node", func(c *cluster) error {
		_, err := c.leader.client.UpdateNode(c.ctx, &fettlev1.UpdateNodeRequest{Node: "n9", Action: fettlev1.NodeAction_NODE_ACTION_DRAIN})
		return err
	}, codes.NotFound, `node: "n9" does not exist; see finfo for the nodes there are`},
	{"node: removed while it holds a job", func(c *cluster) error {
		_, err := c.leader.client.UpdateNode(c.ctx, &fettlev1.UpdateNodeRequest{Node: "n1", Action: fettlev1.NodeAction_NODE_ACTION_REMOVE})
		return err
	}, codes.FailedPrecondition, "node: n1 holds 1 attempts, job 2 among them; wait for them, or declare the node dead"},
	{"policy: by a user", func(c *cluster) error {
		_, err := c.leader.client.SetPolicy(c.as(ada), &fettlev1.SetPolicyRequest{Policy: &fettlev1.ClusterPolicy{}})
		return err
	}, codes.PermissionDenied, adminOnly},
	{"policy: none", func(c *cluster) error {
		_, err := c.leader.client.SetPolicy(c.ctx, &fettlev1.SetPolicyRequest{})
		return err
	}, codes.InvalidArgument, "policy: is missing"},
	{"policy: a setting that the scheduling policy refuses", func(c *cluster) error {
		p := &fettlev1.ClusterPolicy{Scheduling: []*fettlev1.KeyValue{{Key: "size_weight", Value: "bad"}}}
		_, err := c.leader.client.SetPolicy(c.ctx, &fettlev1.SetPolicyRequest{Policy: p})
		return err
	}, codes.InvalidArgument, "scheduling: setting size_weight: is bad"},
	{"policy: changed meanwhile", func(c *cluster) error {
		_, err := c.leader.client.SetPolicy(c.ctx, &fettlev1.SetPolicyRequest{Policy: &fettlev1.ClusterPolicy{}, ExpectVersion: 7})
		return err
	}, codes.FailedPrecondition, "version: 7 is not the stored version 0; read the policy again and repeat the change"},
	{"join: by a user", func(c *cluster) error {
		_, err := c.leader.client.AddServer(c.as(ada), &fettlev1.AddServerRequest{})
		return err
	}, codes.PermissionDenied, adminOnly},
	{"join: refused by Raft", func(c *cluster) error {
		c.leader.raft.set(func() { c.leader.raft.fail = fmt.Errorf("%w: this is cluster c, not d", raftstore.ErrJoinRefused) })
		_, err := c.leader.client.AddServer(c.ctx, &fettlev1.AddServerRequest{ServerId: "c3.y", ClusterId: "d"})
		return err
	}, codes.FailedPrecondition, "server: join refused: this is cluster c, not d"},
	{"remove: by a user", func(c *cluster) error {
		_, err := c.leader.client.RemoveServer(c.as(ada), &fettlev1.RemoveServerRequest{Server: "c2"})
		return err
	}, codes.PermissionDenied, adminOnly},
	{"remove: nobody", func(c *cluster) error {
		_, err := c.leader.client.RemoveServer(c.ctx, &fettlev1.RemoveServerRequest{})
		return err
	}, codes.InvalidArgument, "server: is missing; name a controller; fctl raft list shows them"},
	{"remove: unknown", func(c *cluster) error {
		_, err := c.leader.client.RemoveServer(c.ctx, &fettlev1.RemoveServerRequest{Server: "c9"})
		return err
	}, codes.NotFound, "server: no controller c9 in this cluster; fctl raft list shows them"},
	{"transfer: by a user", func(c *cluster) error {
		_, err := c.leader.client.TransferLeadership(c.as(ada), &fettlev1.TransferLeadershipRequest{})
		return err
	}, codes.PermissionDenied, adminOnly},
	{"transfer: nobody can take over", func(c *cluster) error {
		c.leader.raft.set(func() { c.leader.raft.fail = raftstore.ErrNoSuccessor })
		_, err := c.leader.client.TransferLeadership(c.ctx, &fettlev1.TransferLeadershipRequest{})
		return err
	}, codes.FailedPrecondition, "server: no other voter can take over"},
	{"leader view: by a user", func(c *cluster) error {
		_, err := c.leader.client.GetLeaderView(c.as(ada), &fettlev1.GetLeaderViewRequest{})
		return err
	}, codes.PermissionDenied, adminOnly},
	{"leader view: of a follower", func(c *cluster) error {
		_, err := c.follower.client.GetLeaderView(c.ctx, &fettlev1.GetLeaderViewRequest{})
		return err
	}, codes.FailedPrecondition, "this controller is not the leader; ask the leader"},
	{"forwarded twice", func(c *cluster) error {
		_, err := c.follower.client.SubmitJobs(c.as(ada), &fettlev1.SubmitJobsRequest{Jobs: []*fettlev1.JobSubmission{{RequestId: "r", Spec: script()}}})
		return err
	}, codes.FailedPrecondition, "this controller is not the leader; ask the leader"},
}

const adminOnly = "only the cluster's admin may do this; run it as root or as the user that runs the controllers"

// fails has the log answer everything with an error.
func (c *cluster) fails(err error) {
	c.log.OnPropose(func(*raftlogv1.Entry) (bool, error) { return false, err })
}

func readLog(c *cluster, uid int, req *fettlev1.ReadLogRequest) error {
	s, err := c.leader.client.ReadLog(c.as(uid), req)
	for err == nil {
		_, err = s.Recv()
	}
	return err
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, row := range refusals {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.node("n1")
			c.submit(ada, script())
			c.running(ada, "n1")
			done := c.submit(ada, script())
			c.said("n1", c.place(done, "n1"), fettlev1.ReportKind_REPORT_KIND_ENDED, &fettlev1.Exit{})
			before := c.snap().Index()
			err := row.call(c)
			if status.Code(err) != row.code || text(err) != row.want {
				t.Errorf("%s %q\nwant %s %q", status.Code(err), text(err), row.code, row.want)
			}
			if strings.ContainsAny(text(err), "\n\r") {
				t.Error("more than one line")
			}
			// No side effect, but for what a row does before it is refused.
			if j := c.snap().Job(2); c.snap().Index() > before && j.State != model.Running {
				t.Errorf("job 2 is %s", model.StateName(j.State))
			}
		})
	}
}
