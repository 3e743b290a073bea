package fsm

import (
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
	done  map[uint64]*model.FieldError
	order []uint64
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
	m.done = make(map[uint64]*model.FieldError)
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
		m.keep(id, nil)
	}
	for _, r := range res.GetRefused() {
		m.keep(r.GetJobId(), &model.FieldError{Kind: model.Kind(r.GetKind()), Field: r.GetField(), Problem: r.GetProblem(), Remedy: r.GetRemedy()})
	}
	return m, nil
}

func opNumber(e *raftlogv1.Entry) uint32 {
	r := e.ProtoReflect()
	return uint32(r.WhichOneof(r.Descriptor().Oneofs().ByName("op")).Number())
}

func (m *memory) known() bool { return m.found }

func (m *memory) keep(id uint64, err *model.FieldError) {
	if _, ok := m.done[id]; !ok {
		m.order = append(m.order, id)
	}
	m.done[id] = err
}

func (m *memory) answer(id uint64) (ActionOutcome, bool) {
	err, ok := m.done[id]
	return ActionOutcome{JobID: id, Err: err}, ok
}

func (m *memory) note(out ActionOutcome) {
	if m.id == "" || len(m.order) >= model.MaxRememberedIDs {
		return
	}
	m.fresh = true
	m.keep(out.JobID, out.Err)
}

// remember stores the request's answer when it has become more than it was.
func (m *memory) remember(t *state.Txn) {
	if m.id == "" || m.found && !m.fresh {
		return
	}
	res, weight := &raftlogv1.RequestResult{Op: m.op}, uint32(0)
	slices.Sort(m.order)
	for _, id := range m.order {
		if err := m.done[id]; err == nil {
			res.Done = append(res.Done, id)
			weight++
		} else {
			res.Refused = append(res.Refused, &raftlogv1.Refusal{JobId: id, Kind: uint32(err.Kind), Field: err.Field, Problem: err.Problem, Remedy: err.Remedy})
			weight += model.RefusalWeight
		}
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
