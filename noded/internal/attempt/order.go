package attempt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"

	"github.com/fettle-hpc/fettle/noded/internal/account"
	"github.com/fettle-hpc/fettle/noded/internal/cgroup"
	"github.com/fettle-hpc/fettle/noded/internal/handoff"
	"github.com/fettle-hpc/fettle/noded/internal/userread"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/nodemachine"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

const (
	methodScript = "script"
	// defaultGraceS is for leaders that leave the grace out.
	defaultGraceS = 30
)

// refusal is a launch that fails before anything runs. user says that the reason lies with the job, not with the node.
type refusal struct {
	user   bool
	reason string
}

func (r *refusal) Error() string { return r.reason }

func userFault(format string, args ...any) error { return &refusal{true, fmt.Sprintf(format, args...)} }

func nodeFault(format string, args ...any) error {
	return &refusal{false, fmt.Sprintf(format, args...)}
}

// neverStarted is the end that a failed launch is reported as.
func neverStarted(err error) *fettlev1.Exit {
	var r *refusal
	user := errors.As(err, &r) && r.user
	return &fettlev1.Exit{Code: -1, NeverStarted: true, UserError: user, Detail: oneLine(err.Error())}
}

// info is what the daemon wants to know of an attempt after a restart; it lies in the order as JSON.
type info struct {
	Method       string   `json:"method"`
	Stdout       string   `json:"stdout"`
	Stderr       string   `json:"stderr,omitempty"`
	OutputDir    string   `json:"output_dir,omitempty"`
	ProgressFile string   `json:"progress_file,omitempty"`
	UID          uint32   `json:"uid"`
	GID          uint32   `json:"gid"`
	Groups       []uint32 `json:"groups,omitempty"`
	PreparedMS   int64    `json:"prepared_ms"`
	GPUs         []string `json:"gpus,omitempty"`
	VRAMMiB      int64    `json:"vram_mib,omitempty"`
	GraceMS      int64    `json:"grace_ms,omitempty"`

	Cgroup handoff.Cgroup `json:"cgroup"`
}

func (i *info) identity() userread.Identity {
	return userread.Identity{UID: i.UID, GID: i.GID, Groups: i.Groups}
}

// plan is an order on its way.
type plan struct {
	order  handoff.Order
	info   info
	limits cgroup.Limits
}

// makePlan turns an order of the leader into one for the shim. It asks the launcher, which may take seconds.
func (m *Manager) makePlan(ctx context.Context, s nodemachine.StartShim) (*plan, error) {
	p, spec := s.Prepare, s.Prepare.GetSpec()
	if spec == nil {
		return nil, nodeFault("the order has no job specification")
	}
	acc, err := m.accountOf(ctx, p)
	if err != nil {
		return nil, err
	}
	gpus := m.cfg.Inventory().GetGpus()
	if err := checkGPUs(p.GetAllocation().GetGpuUuids(), gpus); err != nil {
		return nil, err
	}
	pl := &plan{
		info: info{Method: spec.GetMethod(), UID: acc.UID, GID: acc.GID, Groups: acc.Groups, PreparedMS: m.cfg.Now().UnixMilli(),
			GPUs: p.GetAllocation().GetGpuUuids(), VRAMMiB: p.GetAllocation().GetVramMib(), GraceMS: graceMS(spec)},
		order: handoff.Order{
			Key: s.Key.String(), Dir: spec.GetWorkDir(), Truncate: spec.GetTruncateOutput(),
			UID: acc.UID, GID: acc.GID, Groups: acc.Groups, SwitchUser: m.cfg.UID == 0,
			TimeLimitS: p.GetTimeLimitS(), GraceMS: graceMS(spec),
		},
		limits: cgroup.Limits{CPUs: p.GetAllocation().GetCpus(), MemMiB: p.GetAllocation().GetMemMib()},
	}
	o := &pl.order
	if o.Dir == "" {
		o.Dir = acc.Home
	}
	if !filepath.IsAbs(o.Dir) {
		return nil, userFault("work_dir %q: not an absolute path", o.Dir)
	}
	if s.LeaseEpochMS != 0 {
		o.LeasePath, o.LeaseEpochMS = m.cfg.LeasePath, s.LeaseEpochMS
	}
	pl.outputs(p, acc)
	o.HideDevices, pl.limits.Deny = m.cfg.Fence().Hidden(p.GetAllocation().GetGpuUuids())
	if m.cfg.UID != 0 {
		o.HideDevices = nil
	} else if len(o.HideDevices) > 0 {
		o.DenyPath = m.denyPath()
	}

	files := m.filesOf(s.Key)
	o.FilesDir = files
	env := userEnv(acc, spec)
	if isScript(spec.GetMethod()) {
		o.Script, o.Argv = spec.GetScript(), spec.GetArgs()
		if len(o.Script) == 0 {
			return nil, userFault("script: empty")
		}
	} else if err := m.askLauncher(ctx, p, pl, env, files); err != nil {
		return nil, err
	}
	env.fettleEnv(p, s.ClusterID, files, gpus)
	o.Env = env.list()
	return pl, nil
}

// seal completes the order with what was decided last.
func (pl *plan) seal(cg handoff.Cgroup) (err error) {
	pl.order.Cgroup, pl.info.Cgroup = cg, cg
	pl.order.Daemon, err = json.Marshal(&pl.info)
	return err
}

func isScript(method string) bool { return method == methodScript || method == "" }

// accountOf decides whom the attempt runs as. A daemon without privileges runs jobs of its own user only; that somebody
// else's job came here is for that user to know, and no reason to drain the node.
func (m *Manager) accountOf(ctx context.Context, p *fettlev1.Prepare) (*account.Account, error) {
	if m.cfg.UID != 0 && p.GetUid() != m.cfg.UID {
		return nil, userFault("user %s (uid %d): this node's daemon runs without privileges and starts only jobs of uid %d", p.GetUser(), p.GetUid(), m.cfg.UID)
	}
	if p.GetUid() == 0 && m.cfg.NoRoot {
		return nil, userFault("user root: this node starts no jobs of root")
	}
	if p.GetUid() == math.MaxUint32 {
		return nil, userFault("uid %d is nobody's", p.GetUid())
	}
	acc, err := m.cfg.Users.Lookup(ctx, p.GetUid(), p.GetUser())
	switch {
	case err == nil:
		return acc, nil
	case m.cfg.UID != 0 && errors.Is(err, account.ErrUnknown):
		// A container without a passwd entry for its own user.
		return &account.Account{Name: p.GetUser(), UID: p.GetUid(), GID: p.GetGid(), Home: "/", Shell: "/bin/sh", Groups: []uint32{p.GetGid()}}, nil
	case errors.Is(err, account.ErrUnknown), errors.Is(err, account.ErrMismatch):
		return nil, userFault("%v", err)
	}
	return nil, nodeFault("%v", err)
}

func checkGPUs(uuids []string, gpus []*fettlev1.GPU) error {
	for _, u := range uuids {
		found := false
		for _, g := range gpus {
			if g.GetUuid() == u {
				if found = true; g.GetUnhealthy() {
					return nodeFault("GPU %s is unhealthy: %s", u, g.GetHealthDetail())
				}
			}
		}
		if !found {
			return nodeFault("GPU %s is not on this node", u)
		}
	}
	return nil
}

func graceMS(spec *fettlev1.JobSpec) int64 {
	if s := spec.GetKillGraceS(); s > 0 {
		return s * 1000
	}
	return defaultGraceS * 1000
}

// outputs names the job's output files.
func (pl *plan) outputs(p *fettlev1.Prepare, acc *account.Account) {
	spec := p.GetSpec()
	if spec.GetWorkDir() == "" {
		spec = &fettlev1.JobSpec{Name: spec.GetName(), WorkDir: pl.order.Dir, StdoutPath: spec.GetStdoutPath(), StderrPath: spec.GetStderrPath()}
	}
	names := nodemachine.OutputNames{Key: nodemachine.KeyOf(p.GetKey()), ArrayJob: p.GetArrayJobId(), ArrayIndex: p.GetArrayIndex(),
		User: acc.Name, FirstNode: nodeNames(p)[0]}
	pl.order.Stdout = nodemachine.OutputFile(spec.GetStdoutPath(), spec, names)
	if e := spec.GetStderrPath(); e != "" {
		pl.order.Stderr = nodemachine.OutputFile(e, spec, names)
	}
	pl.info.Stdout, pl.info.Stderr = pl.order.Stdout, pl.order.Stderr
}

// askLauncher lets the method's launcher say what to run.
func (m *Manager) askLauncher(ctx context.Context, p *fettlev1.Prepare, pl *plan, env *environment, files string) error {
	spec := p.GetSpec()
	l, err := m.launcher(spec.GetMethod())
	if err != nil {
		return nodeFault("launcher %s: %v", spec.GetMethod(), err)
	}
	resp, err := l.Plan(ctx, &pluginv1.PlanRequest{
		Config: &pluginv1.TrainingConfig{
			Yaml: spec.GetConfig(), Path: spec.GetConfigPath(), Set: spec.GetSet(),
			Nodes: uint32(max(1, len(p.GetGang()))), GpusPerNode: spec.GetGpusPerNode().GetCount(), WorkDir: pl.order.Dir,
		},
		JobId: p.GetKey().GetJobId(), Attempt: p.GetKey().GetAttempt(), Fence: p.GetKey().GetFence(),
		AttemptDir: files, Rank: p.GetRank(), MasterAddr: masterAddr(p), MasterPort: p.GetMasterPort(),
		GpuUuids: p.GetAllocation().GetGpuUuids(), Cpus: p.GetAllocation().GetCpus(),
		Engine: m.cfg.Engine, Env: env.proto(),
	})
	if err != nil {
		return nodeFault("launcher %s: %v", spec.GetMethod(), err)
	}
	if ps := resp.GetProblems(); len(ps) > 0 {
		return userFault("%s", problemText(ps[0]))
	}
	if len(resp.GetArgv()) == 0 {
		return nodeFault("launcher %s: its plan has no command", spec.GetMethod())
	}
	pl.order.Argv = resp.GetArgv()
	for _, f := range resp.GetFiles() {
		pl.order.Files = append(pl.order.Files, handoff.File{Path: f.GetPath(), Mode: f.GetMode(), Content: f.GetContent()})
	}
	env.add(resp.GetEnv())
	for _, n := range resp.GetNotes() {
		pl.order.Preamble += "fettle: " + oneLine(n) + "\n"
	}
	pl.info.OutputDir, pl.info.ProgressFile = resp.GetOutputDir(), resp.GetProgressFile()
	return nil
}

func (m *Manager) launcher(method string) (Launcher, error) {
	if m.cfg.Launcher == nil {
		return nil, errors.New("not installed on this node")
	}
	return m.cfg.Launcher(method)
}

func problemText(p *pluginv1.Problem) string {
	text := p.GetField()
	if p.GetLine() > 0 {
		text += fmt.Sprintf(" (line %d)", p.GetLine())
	}
	if text != "" {
		text += ": "
	}
	text += p.GetProblem()
	if p.GetRemedy() != "" {
		text += "; " + p.GetRemedy()
	}
	return text
}

// maxDetail bounds a detail in bytes.
const maxDetail = 512

// oneLine keeps a text in one line and bounded.
func oneLine(s string) string {
	s = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s), "?")
	if len(s) > maxDetail {
		s = strings.ToValidUTF8(s[:maxDetail-3], "") + "..."
	}
	return s
}
