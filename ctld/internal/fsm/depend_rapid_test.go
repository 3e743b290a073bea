package fsm

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/model"
	raftlogv1 "github.com/fettle-hpc/fettle/proto/raftlog/v1"

	"github.com/fettle-hpc/fettle/ctld/internal/state"
)

// oracle says from the rows alone what a waiting job has to wait for, and whether it should have been ended.
func oracle(s *state.Snapshot, j *state.Job) (open []string, never bool) {
	met, nevers := false, 0
	for _, d := range j.Spec.GetDependencies() {
		fate := model.Open
		switch {
		case d.GetKind() == model.Singleton:
			first := true
			s.JobsOfUser(j.UID, func(o *state.Job) bool {
				first = first && (o.IsElement() || o.Spec.GetName() != j.Spec.GetName() || o.ID >= j.ID || o.ID == j.ArrayJobID)
				return true
			})
			if first {
				fate = model.Met
			}
		case d.Index != nil:
			if e := s.Element(d.GetJobId(), d.GetIndex()); e != nil {
				fate = model.FateOf(d.GetKind(), e.State, e.HasStarted())
			} else if a := s.Job(d.GetJobId()); a.Finished() {
				// It never got a row: it was cancelled with the rest.
				fate = model.FateOf(d.GetKind(), a.State, a.HasStarted())
			}
		default:
			on := s.Job(d.GetJobId())
			fate = model.FateOf(d.GetKind(), on.State, on.HasStarted())
		}
		switch fate {
		case model.Open:
			open = append(open, model.DependencyText(d))
		case model.Met:
			met = true
		case model.Never:
			nevers++
		}
	}
	if !j.Spec.GetDependencyAny() {
		return open, nevers > 0
	}
	if met {
		return nil, false
	}
	return open, len(open) == 0 && nevers > 0
}

// Whatever is submitted, started, ended, cancelled, held, requeued and renamed: every waiting job waits for exactly what the
// rows say is open, jobs that can never start are ended, and nothing starts before its time.
func TestDependenciesFollowTheRows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := up(t, "n1")
		keys := map[uint64]*fettlev1.AttemptKey{}
		// started are jobs that have run once: a requeue does not make them wait for their dependencies again.
		started := map[uint64]bool{}
		pick := func(want func(*state.Job) bool) *state.Job {
			var ids []*state.Job
			r.snap().Jobs(0, func(j *state.Job) bool {
				if want(j) {
					ids = append(ids, j)
				}
				return true
			})
			if len(ids) == 0 {
				return nil
			}
			return ids[rapid.IntRange(0, len(ids)-1).Draw(t, "job")]
		}
		anyJob := func(*state.Job) bool { return true }
		names := rapid.SampledFrom([]string{"a", "b"})
		t.Repeat(map[string]func(*rapid.T){
			"submit": func(t *rapid.T) {
				s := script(1, 1, 0)
				if rapid.IntRange(0, 3).Draw(t, "array") == 0 {
					s = arrayOf(t, rapid.SampledFrom([]string{"0-2", "0-5:5%1"}).Draw(t, "elements"))
				}
				s.Name = names.Draw(t, "name")
				for range rapid.IntRange(0, 3).Draw(t, "dependencies") {
					d := &fettlev1.Dependency{Kind: fettlev1.DependencyKind(rapid.IntRange(1, 5).Draw(t, "kind"))}
					if on := pick(anyJob); d.Kind != model.Singleton && on != nil {
						if d.JobId = on.ID; on.IsArray() && rapid.Bool().Draw(t, "element") {
							d.Index = proto.Uint32(0)
						}
					} else {
						d.Kind = model.Singleton
					}
					if !slices.ContainsFunc(s.Dependencies, func(o *fettlev1.Dependency) bool { return proto.Equal(o, d) }) {
						s.Dependencies = append(s.Dependencies, d)
					}
				}
				s.DependencyAny = len(s.Dependencies) > 0 && rapid.Bool().Draw(t, "any")
				out := r.ok(&raftlogv1.Entry{Actor: alice, Op: submitOp(fmt.Sprint("r", r.index), s)}).Submit[0]
				if out.Err != nil && out.Err.Kind != model.NotFound {
					t.Fatalf("refused: %v", out.Err)
				}
			},
			"start": func(t *rapid.T) {
				j := pick(func(j *state.Job) bool { return j.State == model.Pending })
				if j == nil || r.node("n1").CPUsUsed >= 8 {
					return
				}
				p := &raftlogv1.Placement{JobId: j.ID, Attempt: j.Attempt + 1, Nodes: []*fettlev1.NodeAllocation{part(script(1, 1, 0), "n1")}}
				if j.IsArray() && j.Array.Left != nil {
					i := j.Array.Left[0].GetFirst()
					p.ArrayIndex = &i
				}
				room, limited := r.snap().ArrayRoom(j)
				if j.Array == nil && !j.IsElement() {
					limited = false
				}
				out := r.ok(r.planOp(p)).Placements[0]
				if want := j.Startable() && (!limited || room > 0); (out.Err == nil) != want {
					t.Fatalf("start of %d, which should be %v: %v", j.ID, want, out.Err)
				}
				if out.Err == nil {
					id := max(out.Started, p.GetJobId())
					keys[id], started[id] = &fettlev1.AttemptKey{JobId: id, Attempt: p.GetAttempt(), Fence: r.index}, true
					if rapid.Bool().Draw(t, "prepared") {
						r.prepared(keys[id], "n1")
					}
				}
			},
			"end": func(t *rapid.T) {
				if j := pick((*state.Job).Active); j != nil {
					r.ended(keys[j.ID], "n1", &fettlev1.Exit{Code: rapid.SampledFrom([]int32{0, 0, 1}).Draw(t, "code")})
				}
			},
			"act": func(t *rapid.T) {
				j := pick(func(j *state.Job) bool { return !j.Finished() })
				if j == nil {
					return
				}
				op := rapid.SampledFrom([]func(...uint64) *raftlogv1.Entry{cancelOp, holdOp, releaseOp, requeueOp}).Draw(t, "op")
				e := op(j.ID)
				if j.IsArray() && rapid.Bool().Draw(t, "element") {
					switch o := e.GetOp().(type) {
					case *raftlogv1.Entry_Cancel:
						o.Cancel.Ids, o.Cancel.Elements = nil, these(j.ID, 0)
					case *raftlogv1.Entry_Hold:
						o.Hold.Ids, o.Hold.Elements = nil, these(j.ID, 5, 0)
					}
				}
				r.ok(e)
			},
			"rename": func(t *rapid.T) {
				if j := pick(func(j *state.Job) bool { return !j.Finished() && !j.IsElement() && !j.CancelRequested }); j != nil {
					r.ok(updateJobOp(&fettlev1.UpdateJobRequest{JobId: j.ID, Name: proto.String(names.Draw(t, "name"))}))
				}
			},
			"": func(t *rapid.T) {
				s := r.snap()
				s.Jobs(0, func(j *state.Job) bool {
					if j.State != model.Pending {
						return true
					}
					open, never := oracle(s, j)
					var got []string
					for _, d := range j.WaitingFor {
						got = append(got, model.DependencyText(d))
					}
					switch {
					case started[j.ID] || j.IsArray() && j.StartMS > 0:
					case never:
						t.Fatalf("job %d waits for what can never come: %v", j.ID, got)
					case len(got) > len(open) || len(got) < len(open) && !slices.ContainsFunc(open, func(d string) bool { return d == "singleton" }):
						t.Fatalf("job %d waits for %v, open are %v", j.ID, got, open)
					}
					for _, d := range got {
						if !slices.Contains(open, d) {
							t.Fatalf("job %d waits for %s, open are %v", j.ID, d, open)
						}
					}
					return true
				})
			},
		})
		// However a replica comes to this state, it is the same one.
		(&world{r: r}).replicas(t)
	})
}
