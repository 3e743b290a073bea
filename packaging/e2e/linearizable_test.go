package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// The history of one job: it is submitted once, then held, released, cancelled and read by several clients at once.
type opKind uint8

const (
	opSubmit opKind = iota
	opHold
	opRelease
	opCancel
	opStatus
)

type opInput struct {
	kind opKind
	job  int
}

// opOutput is an answer. unknown means that the operation may or may not have been done.
type opOutput struct {
	unknown bool
	refused bool
	held    bool
	state   fettlev1.JobState
}

// jobModel is what a job may be: jobs of this test never run, so nothing but these operations changes them.
type jobModel struct {
	there, held, cancelled bool
}

func (m jobModel) apply(kind opKind) (next jobModel, refused bool) {
	switch kind {
	case opSubmit:
		return jobModel{there: true, held: m.held || !m.there, cancelled: m.cancelled}, false
	case opHold:
		if m.cancelled {
			return m, true
		}
		m.held = true
	case opRelease:
		if m.cancelled {
			return m, true
		}
		m.held = false
	case opCancel:
		// Cancelling what is cancelled already is no error.
		m.cancelled = true
	}
	return m, false
}

var jobHistory = (&porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byJob := map[int][]porcupine.Operation{}
		for _, op := range history {
			byJob[op.Input.(opInput).job] = append(byJob[op.Input.(opInput).job], op)
		}
		var parts [][]porcupine.Operation
		for _, p := range byJob {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() []any { return []any{jobModel{}} },
	Step: func(state, input, output any) []any {
		m, in, out := state.(jobModel), input.(opInput), output.(opOutput)
		if in.kind == opStatus {
			want := fettlev1.JobState_JOB_STATE_PENDING
			if m.cancelled {
				want = fettlev1.JobState_JOB_STATE_CANCELLED
			}
			if m.there && out.state == want && (m.cancelled || out.held == m.held) {
				return []any{m}
			}
			return nil
		}
		next, refused := m.apply(in.kind)
		switch {
		case out.unknown:
			return []any{m, next}
		case !m.there && in.kind != opSubmit, refused != out.refused && in.kind != opCancel:
			return nil
		}
		return []any{next}
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}).ToModel()

// TestLinearizable records what clients of a real cluster see while its leader is killed, and checks that there is an
// order of the operations that explains every answer.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	c := upCluster(t, Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	const clients, jobs, kills = 5, 12, 3
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	began := time.Now()
	var mu sync.Mutex
	var history []porcupine.Operation
	record := func(client int, in opInput, call time.Duration, out opOutput) {
		mu.Lock()
		defer mu.Unlock()
		op := porcupine.Operation{ClientId: client, Input: in, Call: int64(call), Output: out, Return: int64(time.Since(began))}
		if out.unknown {
			// It may take effect at any time from its call on.
			op.Return = int64(time.Hour)
		}
		history = append(history, op)
	}
	var killed atomic.Int64
	var killer sync.WaitGroup
	killer.Go(func() { c.killSome(ctx, t, kills, &killed) })
	for round := 0; killed.Load() < kills && ctx.Err() == nil; round++ {
		ids := make([]uint64, jobs)
		for i := range ids {
			in := opInput{opSubmit, round*jobs + i}
			call := time.Since(began)
			id, err := c.submitOne(ctx, sleeper(fmt.Sprintf("lin%d", in.job)))
			if err != nil {
				t.Fatal(err)
			}
			ids[i] = id
			record(99, in, call, opOutput{})
		}
		var group sync.WaitGroup
		for cl := range clients {
			rng := rand.New(rand.NewPCG(seed, uint64(round*clients+cl)))
			group.Go(func() {
				for range 40 {
					i := rng.IntN(jobs)
					in := opInput{[]opKind{opHold, opRelease, opCancel, opStatus, opStatus, opStatus}[rng.IntN(6)], round*jobs + i}
					if in.kind == opCancel && rng.IntN(4) != 0 {
						in.kind = opStatus
					}
					addr := c.Controllers[rng.IntN(len(c.Controllers))].Addr
					call := time.Since(began)
					out, ok := c.doOp(ctx, addr, in.kind, ids[i])
					if ok {
						record(cl, in, call, out)
					}
				}
			})
		}
		group.Wait()
	}
	killer.Wait()
	unknown := 0
	for _, op := range history {
		if op.Output.(opOutput).unknown {
			unknown++
		}
	}
	result := porcupine.CheckOperationsTimeout(jobHistory, history, 60*time.Second)
	t.Logf("%d operations, %d with an unknown outcome: %v", len(history), unknown, result)
	if result != porcupine.Ok {
		t.Errorf("the history of %d operations is %v", len(history), result)
	}
	if len(history) < clients*40 {
		t.Errorf("only %d operations were answered: the test does not test", len(history))
	}
}

// killSome kills the leader n times, a moment after each election, and starts it again.
func (c *Cluster) killSome(ctx context.Context, t *testing.T, n int, killed *atomic.Int64) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for killed.Load() < int64(n) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if d, err := c.Leader(ctx); err == nil {
			d.Kill(syscall.SIGKILL)
			if err := d.Start(); err != nil {
				t.Error(err)
			}
			killed.Add(1)
		}
	}
}

// doOp does one operation at one controller. ok is false for reads that were not answered, which say nothing.
func (c *Cluster) doOp(ctx context.Context, addr string, kind opKind, id uint64) (out opOutput, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	cl := c.Client(addr)
	sel := &fettlev1.JobSelector{Ids: []uint64{id}}
	var resp *fettlev1.JobActionResponse
	var err error
	switch kind {
	case opStatus:
		got, err := cl.GetJob(ctx, &fettlev1.GetJobRequest{JobId: id, Read: &fettlev1.ReadOptions{Level: fettlev1.ReadLevel_READ_LEVEL_LINEARIZABLE}})
		if err != nil {
			return opOutput{}, false
		}
		return opOutput{state: got.GetJob().GetState(), held: got.GetJob().GetHeld()}, true
	case opHold:
		resp, err = cl.HoldJobs(ctx, &fettlev1.JobActionRequest{RequestId: uuid.NewString(), Select: sel})
	case opRelease:
		resp, err = cl.ReleaseJobs(ctx, &fettlev1.JobActionRequest{RequestId: uuid.NewString(), Select: sel})
	case opCancel:
		resp, err = cl.CancelJobs(ctx, &fettlev1.CancelJobsRequest{RequestId: uuid.NewString(), Select: sel})
	}
	if err != nil {
		if status.Code(err) == codes.FailedPrecondition {
			return opOutput{}, false // Not the leader and nobody to forward to: nothing was done.
		}
		return opOutput{unknown: true}, true
	}
	return opOutput{refused: resp.GetResults()[0].GetError() != nil}, true
}
