package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/fettle-hpc/fettle/plugins/policy"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// noPlugin is why the built-in policy decides where nothing else could.
const noPlugin = "no scheduling plugin is configured"

// scoreTimeout is how long a scheduling cycle waits for its order by default.
const scoreTimeout = time.Second

// Delta is what changed since the last call among the jobs that are compared: those that wait and, where preemption compares the
// two, those that run.
type Delta struct {
	// Full says that Changed is every job that is compared, whatever was said before. The first delta has to be full.
	Full  bool
	NowMS int64
	// Changed are new jobs and those of which an attribute changed, each once. The columns are not kept.
	Changed policy.Columns
	// Removed are compared no longer; unknown ones are passed over. A job is not in Changed too.
	Removed []uint64
}

// Scores are virtual submit times in milliseconds, lower is earlier.
type Scores struct {
	// All says that every job that is compared is named: scores that the caller holds are void, being another policy's or another
	// run's. Otherwise only the delta's changed jobs are named and the rest stay as they are.
	All bool
	// ID and Score have one element a job. They are the caller's to keep.
	ID    []uint64
	Score []int64
}

// Source says whose scores they are.
type Source struct {
	// Name and Version of the policy.
	Name, Version string
	// Builtin says that the plugin did not decide, and Reason why.
	Builtin bool
	Reason  string
}

// String is one phrase for people.
func (s Source) String() string {
	if s.Builtin {
		return fmt.Sprintf("%s (built in: %s)", s.Name, s.Reason)
	}
	return s.Name + " " + s.Version
}

// Scorer orders the waiting jobs.
type Scorer interface {
	// Score takes what changed and answers the scores of that, or of all waiting jobs. After an error the next delta has to be full.
	Score(ctx context.Context, d Delta) (Scores, Source, error)
}

// SchedulingConfig is a scheduling policy and what stands in for it.
type SchedulingConfig struct {
	// Plugin is the policy; with an empty Path the built-in one decides always. Kind is set here.
	Plugin Config
	// Builtin are the built-in policy's weights; policy.Defaults() is usual.
	Builtin policy.Params
}

// Scheduling asks a scheduling policy plugin, and answers from the built-in policy when that is missing, late or wrong.
// It keeps the waiting jobs, so that either can be given all of them at any time. One goroutine uses it at a time; the others wait.
type Scheduling struct {
	plugin *Plugin

	mu      sync.Mutex
	builtin policy.Params
	table   table
	// generation of the last request, base of the last that the plugin answered, and who that was.
	generation, base uint64
	baseOf           author
	// decided is whose scores the caller holds, and holds that it holds any.
	decided author
	holds   bool
	// reason is why the built-in policy decided last.
	reason string
	// explaining lets one explanation at a time through to the plugin.
	explaining chan struct{}
}

// author is a run of the plugin with the settings of a time; the zero value is the built-in policy.
type author struct {
	run     *instance
	settled uint64
}

// NewScheduling starts the policy's plugin and supervises it until Close or the end of ctx.
func NewScheduling(ctx context.Context, cfg SchedulingConfig) (*Scheduling, error) {
	s := &Scheduling{builtin: cfg.Builtin, reason: noPlugin, explaining: make(chan struct{}, 1)}
	if cfg.Plugin.Path == "" {
		return s, nil
	}
	cfg.Plugin.Kind = pluginv1.PluginKind_PLUGIN_KIND_SCHEDULING
	p, err := Start(ctx, cfg.Plugin)
	if err != nil {
		return nil, fmt.Errorf("scheduling plugin: %w", err)
	}
	s.plugin = p
	return s, nil
}

// Close ends the plugin. Later scores come from the built-in policy.
func (s *Scheduling) Close() {
	if s.plugin != nil {
		s.plugin.Close()
	}
}

// Plugin is the supervised process, nil when there is none.
func (s *Scheduling) Plugin() *Plugin { return s.plugin }

// Status is the plugin's status, or that of the built-in policy when there is no plugin.
func (s *Scheduling) Status() *fettlev1.PluginStatus {
	if s.plugin != nil {
		return s.plugin.Status()
	}
	return &fettlev1.PluginStatus{Name: policy.Name + " (built in)", Kind: kindName(pluginv1.PluginKind_PLUGIN_KIND_SCHEDULING), State: string(StateRunning)}
}

// Configure changes the weights, of the plugin and of what stands in for it. All jobs are scored anew in the next call. When
// the plugin refuses the settings nothing changes.
func (s *Scheduling) Configure(ctx context.Context, settings map[string]string, builtin policy.Params) error {
	if s.plugin != nil {
		// Not under the lock: a plugin that hangs here must not hold up a cycle.
		if err := s.plugin.Configure(ctx, settings); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.builtin = builtin
	s.holds = s.holds && s.decided != (author{})
	return nil
}

var _ Scorer = (*Scheduling)(nil)

// Score implements Scorer. The plugin gets one call, of at most CallTimeout and not past ctx's deadline; the built-in policy
// answers when it does not, so an error is either a delta that does not fit what was said before, or ctx being cancelled.
func (s *Scheduling) Score(ctx context.Context, d Delta) (Scores, Source, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.table.apply(d); err != nil {
		s.table.broken, s.base = true, 0
		return Scores{}, Source{}, fmt.Errorf("delta: %w", err)
	}
	if d.Full {
		s.base, s.holds = 0, false
	}
	s.reason = noPlugin
	if s.plugin != nil {
		scores, source, err := s.ask(ctx, d)
		if err == nil {
			return scores, source, nil
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			s.table.broken, s.base = true, 0
			return Scores{}, Source{}, context.Cause(ctx)
		}
		s.reason = err.Error()
	}
	source := Source{Name: policy.Name, Builtin: true, Reason: s.reason}
	if !s.holds || s.decided != (author{}) {
		s.holds, s.decided = true, author{}
		return Scores{All: true, ID: s.table.ids(), Score: s.builtin.ScoreColumns(nil, &s.table.jobs)}, source, nil
	}
	return Scores{ID: append([]uint64(nil), d.Changed.ID...), Score: s.builtin.ScoreColumns(nil, &d.Changed)}, source, nil
}

// errProbation has the built-in policy decide while the plugin's answers are only watched.
type errProbation struct{ left int }

func (e errProbation) Error() string {
	return fmt.Sprintf("the plugin is on probation, %d good answers short", e.left)
}

// ask gets the plugin's scores. An error says why they cannot be used.
func (s *Scheduling) ask(ctx context.Context, d Delta) (Scores, Source, error) {
	var out Scores
	var source Source
	timeout := s.plugin.cfg.CallTimeout
	if timeout == 0 {
		timeout = scoreTimeout
	}
	owed := s.plugin.probation()
	watched := owed > 0
	err := s.plugin.call(ctx, callOptions{timeout: timeout, strict: true}, func(ctx context.Context, inst *instance) error {
		now := author{run: inst, settled: inst.settled.Load()}
		full := s.base == 0 || s.baseOf != now || !watched && (!s.holds || s.decided != now)
		// Until it has answered nobody knows what it holds.
		base := s.base
		s.base = 0
		if full {
			base = 0
		}
		resp, err := s.exchange(ctx, inst, d, base)
		if err == nil && resp.GetNeedFull() && !full {
			full = true
			resp, err = s.exchange(ctx, inst, d, 0)
		}
		if err != nil {
			return err
		}
		s.base, s.baseOf = s.generation, now
		out = Scores{All: full, Score: resp.GetScore(), ID: d.Changed.ID}
		if full {
			out.ID = s.table.jobs.ID
		}
		out.ID = append([]uint64(nil), out.ID...)
		source = Source{Name: inst.info.GetName(), Version: inst.info.GetVersion()}
		if !watched {
			s.decided, s.holds = now, true
		}
		return nil
	})
	if err == nil && watched {
		err = errProbation{left: owed}
	}
	return out, source, err
}

// exchange sends one request, everything when base is 0, and checks the answer.
func (s *Scheduling) exchange(ctx context.Context, inst *instance, d Delta, base uint64) (*pluginv1.ScoreResponse, error) {
	s.generation++
	req := &pluginv1.ScoreRequest{Generation: s.generation, BaseGeneration: base, NowMs: d.NowMS}
	if base == 0 {
		fillRequest(req, &s.table.jobs)
	} else {
		fillRequest(req, &d.Changed)
		req.RemovedJobId = s.table.removed
	}
	if err := s.plugin.checkSize(req); err != nil {
		return nil, err
	}
	// A score takes at most ten bytes.
	room := min(1024+10*len(req.GetJobId()), s.plugin.cfg.MaxResponseBytes)
	resp, err := pluginv1.NewSchedulingPolicyServiceClient(inst.conn).Score(ctx, req, grpc.MaxCallRecvMsgSize(room))
	if err != nil {
		return nil, err
	}
	return resp, checkScores(req, resp)
}

// fillRequest lends the columns to a request, with names and accounts by number. Columns that a policy need not have are left
// out when they say nothing.
func fillRequest(req *pluginv1.ScoreRequest, c *policy.Columns) {
	req.JobId, req.Priority, req.EligibleMs, req.Size, req.TimeLimitS = c.ID, c.Priority, c.EligibleMS, c.Size, c.TimeLimitS
	req.EstimateS, req.RemainingS, req.RunS, req.Running = said(c.EstimateS), said(c.RemainingS), said(c.RunS), said(c.Running)
	req.User, req.Users = numbered(c.User)
	req.Project, req.Projects = numbered(c.Project)
	req.Partition, req.Partitions = numbered(said(c.Partition))
	var accounts []*policy.Account
	req.Account, accounts = numbered(said(c.Account))
	for _, a := range accounts {
		account := &pluginv1.Account{}
		if a != nil {
			for _, l := range a.Levels {
				account.Levels = append(account.Levels, &pluginv1.ShareLevel{Name: l.Name, Usage: l.Usage, Share: l.Share})
			}
		}
		req.Accounts = append(req.Accounts, account)
	}
}

// said is the column, or nil when all of it is zero.
func said[T comparable](column []T) []T {
	var zero T
	for _, v := range column {
		if v != zero {
			return column
		}
	}
	return nil
}

// numbered answers for each element its place in the list of different ones.
func numbered[T comparable](column []T) (index []uint32, list []T) {
	index = make([]uint32, len(column))
	places := map[T]uint32{}
	for i, v := range column {
		at, ok := places[v]
		if !ok {
			at = uint32(len(list))
			places[v] = at
			list = append(list, v)
		}
		index[i] = at
	}
	return index, list
}

// scoreBound keeps sums of scores within int64.
const scoreBound = int64(1) << 61

// checkScores says whether an answer fits its request. One bad element spoils all of it.
func checkScores(req *pluginv1.ScoreRequest, resp *pluginv1.ScoreResponse) error {
	switch {
	case resp.GetGeneration() != req.GetGeneration():
		return invalid("generation %d, asked for %d", resp.GetGeneration(), req.GetGeneration())
	case resp.GetNeedFull() && req.GetBaseGeneration() == 0:
		return invalid("it asks for everything, which it was given")
	case resp.GetNeedFull():
		return nil
	case len(resp.GetScore()) != len(req.GetJobId()):
		return invalid("%d scores for %d jobs", len(resp.GetScore()), len(req.GetJobId()))
	}
	for i, score := range resp.GetScore() {
		if score > scoreBound || score < -scoreBound {
			return invalid("score %d of job %d is beyond ±2^61", score, req.GetJobId()[i])
		}
	}
	return nil
}
