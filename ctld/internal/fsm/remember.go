package fsm

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// memory is what is known of one request, and what is to be known of it after this entry. Without a request id it
// knows nothing and keeps nothing.
type memory struct {
	uid   uint32
	id    string
	op    uint32
	hash  [32]byte
	found bool
	fresh bool
	done  map[target]*model.FieldError
	order []target
}

// recall looks up the entry's request. content is what must be equal in a repeat, nil where it may differ.
func recall(t *state.Txn, e *raftlogv1.Entry, id string, content proto.Message) (*memory, *model.FieldError) {
	m := &memory{uid: e.GetActor().GetUid(), id: id, op: opNumber(e)}
	if id == "" {
		return m, nil
	}
	if err := model.CheckRequestID(id); err != nil {
		return nil, err
	}
	m.done = make(map[target]*model.FieldError)
	if content != nil {
		m.hash = contentHash(content)
	}
	old := t.Request(m.uid, id)
	if old == nil || old.JobID != 0 {
		return m, nil
	}
	var res raftlogv1.RequestResult
	if err := proto.Unmarshal(old.Result, &res); err != nil {
		panic(err)
	}
	if res.GetOp() != m.op || old.Hash != m.hash {
		return nil, &model.FieldError{Kind: model.Conflict, Field: "request_id", Problem: "was used before for a different request", Remedy: "use a new one for each request"}
	}
	m.found = true
	for _, id := range res.GetDone() {
		m.keep(target{id: id}, nil)
	}
	for _, e := range res.GetDoneElements() {
		m.keep(target{id: e.GetJobId(), element: true, index: e.GetIndex()}, nil)
	}
	for _, id := range res.GetDoneUnstarted() {
		m.keep(target{id: id, unstarted: true}, nil)
	}
	for _, r := range res.GetRefused() {
		g := target{id: r.GetJobId(), element: r.Index != nil, index: r.GetIndex(), unstarted: r.GetUnstarted()}
		m.keep(g, &model.FieldError{Kind: model.Kind(r.GetKind()), Field: r.GetField(), Problem: r.GetProblem(), Remedy: r.GetRemedy()})
	}
	return m, nil
}

func opNumber(e *raftlogv1.Entry) uint32 {
	r := e.ProtoReflect()
	return uint32(r.WhichOneof(r.Descriptor().Oneofs().ByName("op")).Number())
}

func (m *memory) known() bool { return m.found }

func (m *memory) keep(g target, err *model.FieldError) {
	if _, ok := m.done[g]; !ok {
		m.order = append(m.order, g)
	}
	m.done[g] = err
}

func (m *memory) answer(g target) (ActionOutcome, bool) {
	err, ok := m.done[g]
	return g.outcome(err), ok
}

func (m *memory) note(g target, err *model.FieldError) {
	if m.id == "" || len(m.order) >= model.MaxRememberedIDs {
		return
	}
	m.fresh = true
	m.keep(g, err)
}

// compareTargets orders whole jobs by number, then elements, then what is unstarted.
func compareTargets(a, b target) int {
	kind := func(g target) int {
		switch {
		case g.unstarted:
			return 2
		case g.element:
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(kind(a), kind(b)), cmp.Compare(a.id, b.id), cmp.Compare(a.index, b.index))
}

// remember stores the request's answer when it has become more than it was.
func (m *memory) remember(t *state.Txn) {
	if m.id == "" || m.found && !m.fresh {
		return
	}
	res, weight := &raftlogv1.RequestResult{Op: m.op}, uint32(0)
	slices.SortFunc(m.order, compareTargets)
	for _, g := range m.order {
		err := m.done[g]
		switch {
		case err != nil:
			r := &raftlogv1.Refusal{JobId: g.id, Kind: uint32(err.Kind), Field: err.Field, Problem: err.Problem, Remedy: err.Remedy, Unstarted: g.unstarted}
			if g.element {
				r.Index = &g.index
			}
			res.Refused = append(res.Refused, r)
			weight += model.RefusalWeight
			continue
		case g.unstarted:
			res.DoneUnstarted = append(res.DoneUnstarted, g.id)
		case g.element:
			res.DoneElements = append(res.DoneElements, &raftlogv1.ArrayElement{JobId: g.id, Index: g.index})
		default:
			res.Done = append(res.Done, g.id)
		}
		weight++
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(res)
	if err != nil {
		panic(err)
	}
	t.Remember(&state.Request{UID: m.uid, ID: m.id, Hash: m.hash, Result: b, Weight: weight})
}

// applyOnce carries out a write that has one answer. A repeat with the same content is answered without doing it again;
// refusals change nothing and are judged afresh.
func applyOnce(t *state.Txn, e *raftlogv1.Entry, requestID string, content proto.Message, do func() *model.FieldError) *Result {
	if e.GetRequestId() != "" {
		requestID = e.GetRequestId()
	}
	mem, err := recall(t, e, requestID, content)
	switch {
	case err != nil:
		return &Result{Err: err}
	case mem.known():
		return &Result{Duplicate: true}
	}
	if err := do(); err != nil {
		return &Result{Err: err}
	}
	mem.remember(t)
	return &Result{}
}
