// Package fakectl is a controller that lives in a test's memory: it answers the whole ControllerService over real gRPC,
// keeps jobs, nodes and logs as the test puts them, and fails on demand, before or after it has done what was asked.
package fakectl

import (
	"context"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

// Server is one controller. Its methods may be called from any goroutine.
type Server struct {
	fettlev1.UnimplementedControllerServiceServer

	mu      sync.Mutex
	changed chan struct{}
	index   uint64
	jobs    map[uint64]*fettlev1.Job
	nextID  uint64
	nodes   []*fettlev1.Node
	keys    map[string]uint64
	logs    map[logKey][]byte
	events  []*fettlev1.Event
	policy  *fettlev1.ClusterPolicy
	servers []*fettlev1.ServerInfo
	explain map[uint64]*fettlev1.ExplainJobResponse
	starts  []*fettlev1.StartPrediction
	reserve []*fettlev1.Reservation
	inWay   []uint64
	usage   *fettlev1.GetUsageResponse
	errors  []*fettlev1.PredictionStats
	plugins []*fettlev1.PluginStatus
	header  *fettlev1.Header
	faults  map[string][]Fault
	calls   map[string]int
	submits []*fettlev1.SubmitJobsRequest
	refusal func(*fettlev1.JobSpec) *fettlev1.ErrorDetail
	answer  *fettlev1.SubmitResult

	grpc *grpc.Server
	addr string
	// PageSize is how many jobs go into one message of a list; 0 means 1000. It is set before the first call.
	PageSize int
}

type logKey struct {
	job     uint64
	attempt uint32
	stderr  bool
}

// Fault makes one call of a method fail.
type Fault struct {
	// After lets the call do its work first.
	After bool
	Err   error
	// Hang keeps the call until its client gives up.
	Hang bool
}

// Start runs a controller on a free port until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	s := New()
	if err := s.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// New returns a controller that does not listen yet.
func New() *Server {
	return &Server{
		changed: make(chan struct{}), jobs: make(map[uint64]*fettlev1.Job), nextID: 1, index: 100,
		keys: make(map[string]uint64), logs: make(map[logKey][]byte), faults: make(map[string][]Fault), calls: make(map[string]int),
		header: &fettlev1.Header{ClusterId: "fake", ServerName: "c1", Term: 1, IsLeader: true, LeaderName: "c1"},
		policy: &fettlev1.ClusterPolicy{Version: 1},
	}
}

// Listen starts to serve on addr.
func (s *Server) Listen(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	g := grpc.NewServer(grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream))
	fettlev1.RegisterControllerServiceServer(g, s)
	s.mu.Lock()
	s.grpc, s.addr = g, l.Addr().String()
	s.mu.Unlock()
	go g.Serve(l)
	return nil
}

// Stop ends all connections at once, as a killed process would.
func (s *Server) Stop() {
	s.mu.Lock()
	g := s.grpc
	s.grpc = nil
	s.mu.Unlock()
	if g != nil {
		g.Stop()
	}
}

// Addr is where it listens, also after Stop.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// Fail lets the next calls of a method, such as "SubmitJobs", fail one by one.
func (s *Server) Fail(method string, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[method] = append(s.faults[method], faults...)
}

// Refuse sets a check on every spec that is submitted.
func (s *Server) Refuse(f func(*fettlev1.JobSpec) *fettlev1.ErrorDetail) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusal = f
}

// Answer sets the warnings of every submit, and the rendered config and the estimate of dry runs.
func (s *Server) Answer(r *fettlev1.SubmitResult) { s.set(func() { s.answer = r }) }

// Calls is how often a method was called.
func (s *Server) Calls(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[method]
}

// Submits are the submit requests that came.
func (s *Server) Submits() []*fettlev1.SubmitJobsRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.submits)
}

// SetHeader changes what headers say.
func (s *Server) SetHeader(f func(*fettlev1.Header)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := proto.Clone(s.header).(*fettlev1.Header)
	f(h)
	s.header = h
}

// SetNodes changes the nodes.
func (s *Server) SetNodes(n ...*fettlev1.Node) { s.set(func() { s.nodes = n }) }

// SetServers changes the controllers of GetCluster.
func (s *Server) SetServers(v ...*fettlev1.ServerInfo) { s.set(func() { s.servers = v }) }

// SetPlugins changes the answer of ListPlugins.
func (s *Server) SetPlugins(v ...*fettlev1.PluginStatus) { s.set(func() { s.plugins = v }) }

// StorePolicy changes the stored policy.
func (s *Server) StorePolicy(p *fettlev1.ClusterPolicy) { s.set(func() { s.policy = p }) }

// Policy is the stored policy.
func (s *Server) Policy() *fettlev1.ClusterPolicy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.policy
}

func (s *Server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.wake()
}

// wake tells those that wait that something has changed; s.mu is held.
func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Put stores jobs as they are and makes an event of each.
func (s *Server) Put(jobs ...*fettlev1.Job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range jobs {
		s.put(j)
	}
	s.wake()
}

func (s *Server) put(j *fettlev1.Job) {
	s.index++
	j = proto.Clone(j).(*fettlev1.Job)
	j.ModifiedIndex = s.index
	s.nextID = max(s.nextID, j.GetId()+1)
	old := s.jobs[j.GetId()]
	s.jobs[j.GetId()] = j
	s.events = append(s.events, &fettlev1.Event{Index: s.index, JobId: j.GetId(), OldState: old.GetState(), State: j.GetState(), Attempt: j.GetAttempt(),
		ArrayJobId: j.GetArrayJobId(), ArrayIndex: j.GetArrayIndex()})
}

// Change alters a stored job.
func (s *Server) Change(id uint64, f func(*fettlev1.Job)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.jobs[id]
	if j == nil {
		return
	}
	j = proto.Clone(j).(*fettlev1.Job)
	f(j)
	s.put(j)
	s.wake()
}

// Job returns a stored job, nil when there is none.
func (s *Server) Job(id uint64) *fettlev1.Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.jobs[id]
}

// Log appends to the output of a job's attempt.
func (s *Server) Log(job uint64, attempt uint32, stderr bool, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := logKey{job, attempt, stderr}
	s.logs[k] = append(s.logs[k], text...)
	s.wake()
}

// head is the header of an answer; s.mu is held.
func (s *Server) head() *fettlev1.Header {
	h := proto.Clone(s.header).(*fettlev1.Header)
	h.Index = s.index
	return h
}

// Refusal makes the status error that controllers refuse with.
func Refusal(code codes.Code, d *fettlev1.ErrorDetail) error {
	st, err := status.New(code, d.GetField()+": "+d.GetProblem()).WithDetails(d)
	if err != nil {
		return err
	}
	return st.Err()
}

func notFound(id uint64, index *uint32) error {
	name := strconv.FormatUint(id, 10)
	if index != nil {
		name = gres.FormatElement(id, *index)
	}
	return Refusal(codes.NotFound, &fettlev1.ErrorDetail{Field: "job", Problem: "no job " + name, Remedy: "fqueue --all lists jobs"})
}

// fault counts a call and takes its fault, if there is one.
func (s *Server) fault(full string) (Fault, bool) {
	method := full[len("/fettle.v1.ControllerService/"):]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[method]++
	list := s.faults[method]
	if len(list) == 0 {
		return Fault{}, false
	}
	s.faults[method] = list[1:]
	return list[0], true
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	f, ok := s.fault(info.FullMethod)
	switch {
	case ok && f.Hang:
		<-ctx.Done()
		return nil, ctx.Err()
	case ok && !f.After:
		return nil, f.Err
	}
	r, err := h(ctx, req)
	if ok {
		return nil, f.Err
	}
	return r, err
}

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	f, ok := s.fault(info.FullMethod)
	switch {
	case ok && f.Hang:
		<-ss.Context().Done()
		return ss.Context().Err()
	case ok && !f.After:
		return f.Err
	}
	err := h(srv, ss)
	if ok {
		return f.Err
	}
	return err
}

// matches reports whether a selector picks a job.
func matches(sel *fettlev1.JobSelector, j *fettlev1.Job) bool {
	in := func(list []string, v string) bool { return len(list) == 0 || slices.Contains(list, v) }
	if len(sel.GetIds())+len(sel.GetElements()) > 0 && !namedBy(sel, j) || len(sel.GetStates()) > 0 && !slices.Contains(sel.GetStates(), j.GetState()) {
		return false
	}
	on := len(sel.GetNodes()) == 0
	for _, a := range j.GetAttempts() {
		for _, n := range a.GetNodes() {
			on = on || slices.Contains(sel.GetNodes(), n.GetNode())
		}
	}
	return on && in(sel.GetUsers(), j.GetUser()) && in(sel.GetNames(), j.GetSpec().GetName()) &&
		in(sel.GetPartitions(), j.GetSpec().GetPartition()) && in(sel.GetProjects(), j.GetSpec().GetProject())
}

// namedBy reports whether a selector names a job: itself, its array, or as an array's element.
func namedBy(sel *fettlev1.JobSelector, j *fettlev1.Job) bool {
	return slices.Contains(sel.GetIds(), j.GetId()) || j.GetArrayJobId() != 0 && slices.Contains(sel.GetIds(), j.GetArrayJobId()) ||
		slices.ContainsFunc(sel.GetElements(), func(e *fettlev1.ElementSelector) bool {
			return e.GetJobId() == j.GetArrayJobId() && model.ArrayHas(e.GetRanges(), j.GetArrayIndex())
		})
}

// find is the job, or the element of the array; an element that has not started is shown as its array's row. s.mu is held.
func (s *Server) find(id uint64, index *uint32) *fettlev1.Job {
	if index == nil {
		return s.jobs[id]
	}
	for _, j := range s.jobs {
		if j.GetArrayJobId() == id && j.GetArrayIndex() == *index {
			return j
		}
	}
	j := s.jobs[id]
	if j == nil || !model.ArrayHas(j.GetArrayLeft().GetRanges(), *index) {
		return nil
	}
	j = proto.Clone(j).(*fettlev1.Job)
	j.ArrayJobId, j.ArrayIndex, j.ArrayLeft, j.ArrayCounts = id, *index, nil, nil
	return j
}

// picked lists the jobs that a selector picks, by number; s.mu is held.
func (s *Server) picked(sel *fettlev1.JobSelector, finished bool) []*fettlev1.Job {
	var out []*fettlev1.Job
	for _, j := range s.jobs {
		if (finished || !model.Terminal(j.GetState())) && matches(sel, j) {
			out = append(out, j)
		}
	}
	for _, e := range sel.GetElements() {
		model.ArrayEach(e.GetRanges(), func(i uint32) bool {
			if j := s.find(e.GetJobId(), &i); j != nil && j.GetId() == e.GetJobId() {
				out = append(out, j)
			}
			return true
		})
	}
	slices.SortFunc(out, func(a, b *fettlev1.Job) int { return int(a.GetId()) - int(b.GetId()) })
	return out
}
