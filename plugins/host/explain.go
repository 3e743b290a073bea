package host

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fettle-hpc/fettle/plugins/policy"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// Bounds of an explanation. It is asked for by users and gets the plugin between two cycles, so it may not take long.
const (
	explainTimeout = 250 * time.Millisecond
	maxExplained   = 1000
	maxTerms       = 32
	maxTermName    = 64
)

// Explanation is scores taken apart, for people.
type Explanation struct {
	// Jobs are in the order in which they were asked for.
	Jobs []ExplainedJob
	// BoundMS is by how much later a job must have become eligible than another to be surely ordered behind it; 0 when the
	// policy promises no such bound.
	BoundMS int64
}

// ExplainedJob is one score. Terms are what it is the sum of; none when the policy does not say, and Score is 0 then.
type ExplainedJob struct {
	ID    uint64
	Score int64
	Terms []policy.Term
}

// Explain takes the scores of up to 1,000 jobs apart, by the policy whose scores the caller of Score holds. The jobs need not be
// among those that were scored; with none the answer is the bound alone. Unlike Score it fails when that policy does: another's words would be no explanation.
func (s *Scheduling) Explain(ctx context.Context, nowMS int64, jobs *policy.Columns) (Explanation, Source, error) {
	if err := jobs.Check(); err != nil {
		return Explanation{}, Source{}, err
	}
	if n := jobs.Len(); n > maxExplained {
		return Explanation{}, Source{}, invalid("%d jobs to explain at once, at most %d", n, maxExplained)
	}
	s.mu.Lock()
	builtin := s.plugin == nil || !s.holds || s.decided == author{}
	params, source := s.builtin, Source{Name: policy.Name, Builtin: true, Reason: s.reason}
	s.mu.Unlock()
	if !builtin {
		return s.askWhy(ctx, nowMS, jobs)
	}
	out := Explanation{BoundMS: params.BoundMS()}
	for i := range jobs.ID {
		j := jobs.At(i)
		out.Jobs = append(out.Jobs, ExplainedJob{ID: j.ID, Score: params.ScoreJob(j), Terms: params.Terms(j)})
	}
	return out, source, nil
}

// askWhy has the plugin explain.
func (s *Scheduling) askWhy(ctx context.Context, nowMS int64, jobs *policy.Columns) (Explanation, Source, error) {
	select {
	case s.explaining <- struct{}{}:
		defer func() { <-s.explaining }()
	case <-ctx.Done():
		return Explanation{}, Source{}, context.Cause(ctx)
	}
	req := &pluginv1.ExplainRequest{Jobs: &pluginv1.ScoreRequest{NowMs: nowMS}}
	fillRequest(req.Jobs, jobs)
	if err := s.plugin.checkSize(req); err != nil {
		return Explanation{}, Source{}, s.plugin.fault(ErrTooLarge, detailOf(err))
	}
	var out Explanation
	var source Source
	err := s.plugin.call(ctx, callOptions{timeout: explainTimeout}, func(ctx context.Context, inst *instance) error {
		source = Source{Name: inst.info.GetName(), Version: inst.info.GetVersion()}
		resp, err := pluginv1.NewSchedulingPolicyServiceClient(inst.conn).Explain(ctx, req)
		if status.Code(err) == codes.Unimplemented {
			for _, id := range jobs.ID {
				out.Jobs = append(out.Jobs, ExplainedJob{ID: id})
			}
			return nil
		}
		if err != nil {
			return err
		}
		out, err = explained(jobs, resp)
		return err
	})
	return out, source, err
}

// explained checks an answer. Terms that do not add up to their score explain nothing.
func explained(jobs *policy.Columns, resp *pluginv1.ExplainResponse) (Explanation, error) {
	out := Explanation{BoundMS: resp.GetBoundMs()}
	if len(resp.GetJobs()) != jobs.Len() || resp.GetBoundMs() < 0 || resp.GetBoundMs() > scoreBound {
		return Explanation{}, invalid("%d jobs explained of %d, bound %d ms", len(resp.GetJobs()), jobs.Len(), resp.GetBoundMs())
	}
	for i, e := range resp.GetJobs() {
		if e.GetJobId() != jobs.ID[i] || len(e.GetTerms()) == 0 || len(e.GetTerms()) > maxTerms {
			return Explanation{}, invalid("%d terms of job %d, asked for job %d", len(e.GetTerms()), e.GetJobId(), jobs.ID[i])
		}
		job := ExplainedJob{ID: e.GetJobId(), Score: e.GetScore()}
		var sum int64
		for _, t := range e.GetTerms() {
			if t.GetMs() > scoreBound || t.GetMs() < -scoreBound || t.GetName() == "" {
				return Explanation{}, invalid("term %q of job %d is %d", printable(t.GetName(), maxTermName), e.GetJobId(), t.GetMs())
			}
			// A running sum that goes beyond the bound has no business to come back.
			if sum += t.GetMs(); sum > scoreBound || sum < -scoreBound {
				return Explanation{}, invalid("the terms of job %d go beyond ±2^61", e.GetJobId())
			}
			job.Terms = append(job.Terms, policy.Term{
				Name: printable(t.GetName(), maxTermName), MS: t.GetMs(), Inputs: printable(t.GetInputs(), maxUserText),
			})
		}
		if sum != e.GetScore() {
			return Explanation{}, invalid("the terms of job %d add up to %d, its score is %d", e.GetJobId(), sum, e.GetScore())
		}
		out.Jobs = append(out.Jobs, job)
	}
	return out, nil
}
