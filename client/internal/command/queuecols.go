package command

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

// queueColumn is one thing that fqueue can show of a job.
type queueColumn struct {
	// name is the word for -o, letter Slurm's letter for -o %X or 0.
	name   string
	letter byte
	title  string
	right  bool
	shrink int
	drop   int
	omit   bool
	cell   func(v *queueView, t *render.Table, j *fettlev1.Job)
}

// queueView is what the cells of one table have in common.
type queueView struct {
	now  time.Time
	term render.Terminal
	// starts are predicted starts by job number; only with --start.
	starts map[uint64]*fettlev1.StartPrediction
}

// defaultColumns are shown without -o.
var defaultColumns = []string{"jobid", "priority", "name", "user", "project", "method", "st", "time", "left", "progress", "gpus", "nodes", "nodelist(reason)"}

var queueColumns = []queueColumn{
	{name: "jobid", letter: 'i', title: "JOBID", right: true, shrink: 14, cell: jobCell},
	{name: "priority", letter: 'p', title: "PRI", right: true, drop: 6, cell: func(_ *queueView, t *render.Table, j *fettlev1.Job) {
		num(t, uint64(j.GetSpec().GetPriority()))
	}},
	{name: "name", letter: 'j', title: "NAME", shrink: 12, cell: text(func(j *fettlev1.Job) string { return j.GetSpec().GetName() })},
	{name: "user", letter: 'u', title: "USER", shrink: 6, drop: 5, cell: text((*fettlev1.Job).GetUser)},
	{name: "project", letter: 'a', title: "PROJECT", shrink: 6, drop: 2, omit: true, cell: text(func(j *fettlev1.Job) string { return j.GetSpec().GetProject() })},
	{name: "method", title: "METHOD", shrink: 5, drop: 3, cell: text(func(j *fettlev1.Job) string { return j.GetSpec().GetMethod() })},
	{name: "st", letter: 't', title: "ST", cell: func(_ *queueView, t *render.Table, j *fettlev1.Job) {
		t.Styled(stateStyle(j.GetState()), model.Code(j.GetState()))
	}},
	{name: "state", letter: 'T', title: "STATE", cell: func(_ *queueView, t *render.Table, j *fettlev1.Job) {
		t.Styled(stateStyle(j.GetState()), model.StateName(j.GetState()))
	}},
	{name: "time", letter: 'M', title: "TIME", right: true, cell: func(v *queueView, t *render.Table, j *fettlev1.Job) {
		t.Bytes(render.Plain, func(b []byte) []byte { return render.AppendSpan(b, elapsed(j, v.now)) })
	}},
	{name: "left", letter: 'L', title: "LEFT", right: true, drop: 7, cell: leftCell},
	{name: "limit", letter: 'l', title: "TIME_LIMIT", right: true, cell: func(_ *queueView, t *render.Table, j *fettlev1.Job) {
		span(t, j.GetSpec().GetTimeLimitS())
	}},
	{name: "progress", title: "PROGRESS", drop: 1, omit: true, cell: progressCell},
	{name: "gpus", title: "GPUS", right: true, cell: gpusCell},
	{name: "gres", letter: 'b', title: "GRES", cell: text(func(j *fettlev1.Job) string { return cmp.Or(gresText(j.GetSpec()), "none") })},
	{name: "nodes", letter: 'D', title: "NODES", right: true, drop: 4, cell: nodesCell},
	{name: "nodelist", letter: 'N', title: "NODELIST", shrink: 8, cell: text(nodeList)},
	{name: "nodelist(reason)", letter: 'R', title: "NODELIST(REASON)", shrink: 12, cell: text(nodesOrReason)},
	{name: "reason", letter: 'r', title: "REASON", shrink: 8, cell: text(func(j *fettlev1.Job) string { return model.ReasonText(j.GetReason()) })},
	{name: "detail", title: "DETAIL", shrink: 12, cell: text((*fettlev1.Job).GetDetail)},
	{name: "partition", letter: 'P', title: "PARTITION", shrink: 6, cell: text(func(j *fettlev1.Job) string { return j.GetSpec().GetPartition() })},
	{name: "cpus", letter: 'C', title: "CPUS", right: true, cell: func(_ *queueView, t *render.Table, j *fettlev1.Job) {
		num(t, uint64(max(j.GetSpec().GetNodes(), 1))*uint64(max(j.GetSpec().GetCpusPerNode(), 1)))
	}},
	{name: "mem", letter: 'm', title: "MEM", right: true, cell: text(func(j *fettlev1.Job) string { return render.Size(j.GetSpec().GetMemMibPerNode()) })},
	{name: "comment", letter: 'k', title: "COMMENT", shrink: 8, cell: text(func(j *fettlev1.Job) string { return j.GetSpec().GetComment() })},
	{name: "workdir", letter: 'Z', title: "WORK_DIR", shrink: 10, cell: text(func(j *fettlev1.Job) string { return j.GetSpec().GetWorkDir() })},
	{name: "submit", letter: 'V', title: "SUBMIT_TIME", cell: text(func(j *fettlev1.Job) string { return render.Time(j.GetSubmitMs()) })},
	{name: "start", letter: 'S', title: "START_TIME", cell: text(startText)},
	{name: "end", letter: 'e', title: "END_TIME", cell: text(func(j *fettlev1.Job) string { return render.Time(j.GetEndMs()) })},
	{name: "attempt", title: "ATTEMPT", right: true, cell: func(_ *queueView, t *render.Table, j *fettlev1.Job) { num(t, uint64(j.GetAttempt())) }},
	{name: "exit", title: "EXIT", right: true, cell: text(exitText)},
	{name: "expected", title: "EXPECTED", cell: func(v *queueView, t *render.Table, j *fettlev1.Job) {
		at := cmp.Or(v.starts[j.GetId()].GetStartMs(), j.GetPredictedStartMs())
		if j.GetState() != model.Pending || at == 0 {
			t.Text("-")
			return
		}
		t.Text(whenText(at, v.now))
	}},
	{name: "between", title: "BETWEEN", drop: 2, omit: true, cell: func(v *queueView, t *render.Table, j *fettlev1.Job) { t.Text(rangeText(v.starts[j.GetId()])) }},
	{name: "expected-nodes", title: "ON", shrink: 8, drop: 1, omit: true, cell: func(v *queueView, t *render.Table, j *fettlev1.Job) {
		t.Text(predictedNodes(v.starts[j.GetId()]))
	}},
	{name: "number", letter: 'A', title: "NUMBER", right: true, cell: func(_ *queueView, t *render.Table, j *fettlev1.Job) { num(t, j.GetId()) }},
	{name: "array", letter: 'F', title: "ARRAY", right: true, cell: func(_ *queueView, t *render.Table, j *fettlev1.Job) {
		num(t, cmp.Or(j.GetArrayJobId(), j.GetId()))
	}},
	{name: "index", letter: 'K', title: "INDEX", cell: text(indexText)},
	{name: "dependency", letter: 'E', title: "DEPENDENCY", shrink: 10, cell: text(func(j *fettlev1.Job) string {
		return cmp.Or(model.DependenciesText(j.GetWaitingFor(), j.GetSpec().GetDependencyAny()), "-")
	})},
	{name: "features", letter: 'f', title: "FEATURES", shrink: 8, cell: text(func(j *fettlev1.Job) string { return cmp.Or(j.GetSpec().GetConstraint(), "-") })},
	{name: "reservation", letter: 'v', title: "RESERVATION", shrink: 8, cell: text(func(j *fettlev1.Job) string { return cmp.Or(j.GetSpec().GetReservation(), "-") })},
	{name: "vram", title: "VRAM", right: true, cell: text(func(j *fettlev1.Job) string {
		if v := j.GetSpec().GetVramMib(); v > 0 {
			return render.Size(v)
		}
		return "-"
	})},
	{name: "deadline", title: "DEADLINE", cell: text(func(j *fettlev1.Job) string { return render.Time(j.GetSpec().GetDeadlineMs()) })},
	{name: "preempted", title: "PREEMPTED", right: true, cell: func(_ *queueView, t *render.Table, j *fettlev1.Job) { num(t, uint64(j.GetPreemptedCount())) }},
	{name: "preempted-by", title: "PREEMPTED_BY", right: true, cell: text(func(j *fettlev1.Job) string {
		if by := newest(j).GetPreemptedBy(); by != 0 {
			return strconv.FormatUint(by, 10)
		}
		return "-"
	})},
	{name: "lost", title: "LOST", cell: text(func(j *fettlev1.Job) string {
		if s := newest(j).GetLostGpuS(); s > 0 {
			return gpuTime(s)
		}
		return "-"
	})},
	{name: "uid", letter: 'U', title: "UID", right: true, cell: func(_ *queueView, t *render.Table, j *fettlev1.Job) { num(t, uint64(j.GetUid())) }},
}

func text(f func(*fettlev1.Job) string) func(*queueView, *render.Table, *fettlev1.Job) {
	return func(_ *queueView, t *render.Table, j *fettlev1.Job) { t.Text(f(j)) }
}

func num(t *render.Table, n uint64) {
	t.Bytes(render.Plain, func(b []byte) []byte { return strconv.AppendUint(b, n, 10) })
}

// span shows seconds, or "-" for none.
func span(t *render.Table, seconds int64) {
	if seconds <= 0 {
		t.Text("-")
		return
	}
	t.Bytes(render.Plain, func(b []byte) []byte { return render.AppendSpan(b, seconds) })
}

func stateStyle(s fettlev1.JobState) render.Style {
	switch s {
	case model.Running:
		return render.Green
	case model.Pending:
		return render.Yellow
	case model.Completed:
		return render.Dim
	case model.Failed, model.Timeout, model.OutOfMemory, model.NodeFail:
		return render.Red
	case model.Dispatching, model.Completing, model.Fencing:
		return render.Cyan
	}
	return render.Plain
}

// elapsed is how long the newest attempt has run, or did run, in seconds.
func elapsed(j *fettlev1.Job, now time.Time) int64 {
	switch {
	case j.GetStartMs() == 0 || j.GetState() == model.Pending || j.GetState() == model.Dispatching:
		return 0
	case j.GetEndMs() > 0:
		return (j.GetEndMs() - j.GetStartMs()) / 1000
	}
	return (now.UnixMilli() - j.GetStartMs()) / 1000
}

// leftCell shows the time to a running job's end: its own estimate, marked with ~, else what its limit leaves.
func leftCell(v *queueView, t *render.Table, j *fettlev1.Job) {
	limit := j.GetSpec().GetTimeLimitS()
	switch {
	case model.Terminal(j.GetState()):
		t.Text("-")
	case running(j) && j.GetProgress() != nil && j.GetProgress().GetRemainingS() >= 0 && j.GetProgress().GetTotalSteps() > 0:
		t.Bytes(render.Plain, func(b []byte) []byte {
			return render.AppendSpan(append(b, '~'), j.GetProgress().GetRemainingS())
		})
	case limit > 0:
		t.Bytes(render.Plain, func(b []byte) []byte { return render.AppendSpan(b, limit-elapsed(j, v.now)) })
	default:
		t.Text("-")
	}
}

func running(j *fettlev1.Job) bool {
	return j.GetState() == model.Running || j.GetState() == model.Completing
}

// progressCell shows how far training has come and its loss.
func progressCell(v *queueView, t *render.Table, j *fettlev1.Job) {
	p := j.GetProgress()
	if c := j.GetArrayCounts(); c != nil {
		over := c.GetCompleted() + c.GetFailed() + c.GetCancelled()
		all := over + c.GetPending() + c.GetActive() + uint32(model.ArrayLen(j.GetArrayLeft().GetRanges()))
		t.Text(fmt.Sprintf("%d of %d ended", over, all))
		return
	}
	if p == nil || p.GetTotalSteps() <= 0 || !running(j) {
		t.Text("")
		return
	}
	share := float64(p.GetStep()) / float64(p.GetTotalSteps())
	s := strconv.Itoa(int(min(share, 1)*100)) + "%"
	if p.Loss != nil {
		s += " loss " + render.Number(p.GetLoss())
	}
	if v.term.TTY {
		s = render.Bar(share, 8, v.term.UTF8) + " " + s
	}
	t.Text(s)
}

// jobCell shows a job's number: "12", "12_3" for an array's element, "12_[5-99%4]" for what of an array has not started.
func jobCell(_ *queueView, t *render.Table, j *fettlev1.Job) {
	switch {
	case j.GetArrayJobId() != 0:
		t.Bytes(render.Plain, func(b []byte) []byte {
			b = append(strconv.AppendUint(b, j.GetArrayJobId(), 10), '_')
			return strconv.AppendUint(b, uint64(j.GetArrayIndex()), 10)
		})
	case len(j.GetArrayLeft().GetRanges()) > 0:
		t.Text(strconv.FormatUint(j.GetId(), 10) + "_[" + model.ArrayText(j.GetArrayLeft()) + "]")
	default:
		num(t, j.GetId())
	}
}

// indexText is an element's index, or the indexes of an array that have not started.
func indexText(j *fettlev1.Job) string {
	switch {
	case j.GetArrayJobId() != 0:
		return strconv.FormatUint(uint64(j.GetArrayIndex()), 10)
	case len(j.GetArrayLeft().GetRanges()) > 0:
		return model.ArrayText(j.GetArrayLeft())
	}
	return "-"
}

// newest is a job's newest attempt, nil when it has none.
func newest(j *fettlev1.Job) *fettlev1.Attempt {
	if n := len(j.GetAttempts()); n > 0 {
		return j.GetAttempts()[n-1]
	}
	return nil
}

// nodesCell shows how many nodes a job has or asks for; "any" where the scheduler chooses.
func nodesCell(_ *queueView, t *render.Table, j *fettlev1.Job) {
	switch {
	case j.GetSpec().GetGpusTotal().GetCount() == 0:
		num(t, uint64(max(j.GetSpec().GetNodes(), 1)))
	case nodeList(j) != "":
		num(t, uint64(len(newest(j).GetNodes())))
	default:
		t.Text("any")
	}
}

// startText is when a job started, or is expected to, marked with ~.
func startText(j *fettlev1.Job) string {
	if j.GetState() == model.Pending && j.GetPredictedStartMs() > 0 {
		return "~" + render.Time(j.GetPredictedStartMs())
	}
	return render.Time(j.GetStartMs())
}

// gpusCell shows the GPUs of the whole job: "4", "h100:16", with a share of memory "h100:1@20G", with alternatives
// "h200:1|h100:2" until one of them is taken.
func gpusCell(_ *queueView, t *render.Table, j *fettlev1.Job) {
	s := j.GetSpec()
	if len(s.GetGpuAlternatives()) == 0 && s.GetGpusTotal() == nil && s.GetVramMib() == 0 && s.GetGpusPerNode().GetType() == "" {
		num(t, uint64(s.GetGpusPerNode().GetCount())*uint64(max(s.GetNodes(), 1)))
		return
	}
	choices, nodes := model.GPUChoices(s), max(s.GetNodes(), 1)
	if g := s.GetGpusTotal(); g != nil {
		choices, nodes = []*fettlev1.GPURequest{g}, 1
	}
	held := uint32(0)
	if len(choices) > 1 && j.GetState() != model.Pending {
		for _, n := range newest(j).GetNodes() {
			held += uint32(len(n.GetGpuUuids()))
		}
	}
	var b []byte
	for _, g := range choices {
		if held > 0 && held != g.GetCount()*nodes {
			continue
		}
		if len(b) > 0 {
			b = append(b, '|')
		}
		if g.GetType() != "" {
			b = append(append(b, g.GetType()...), ':')
		}
		b = strconv.AppendUint(b, uint64(g.GetCount())*uint64(nodes), 10)
	}
	if v := s.GetVramMib(); v > 0 {
		b = append(append(b, '@'), render.Size(v)...)
	}
	t.Text(string(b))
}

// nodeList is the nodes of the newest attempt while it holds them, or where a finished job ran.
func nodeList(j *fettlev1.Job) string {
	if j.GetState() == model.Pending || len(j.GetAttempts()) == 0 {
		return ""
	}
	nodes := j.GetAttempts()[len(j.GetAttempts())-1].GetNodes()
	switch len(nodes) {
	case 0:
		return ""
	case 1:
		return nodes[0].GetNode()
	}
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.GetNode()
	}
	return gres.FormatHosts(names)
}

// pendingReason is a waiting job's reason in parentheses.
func pendingReason(r fettlev1.Reason) string {
	switch r {
	case fettlev1.Reason_REASON_PRIORITY:
		return "(Priority)"
	case fettlev1.Reason_REASON_RESOURCES:
		return "(Resources)"
	}
	return "(" + model.ReasonText(r) + ")"
}

func nodesOrReason(j *fettlev1.Job) string {
	if j.GetState() != model.Pending {
		nodes := nodeList(j)
		if model.Terminal(j.GetState()) && j.GetState() != model.Completed && j.GetReason() != 0 || nodes == "" {
			return strings.TrimSpace(nodes + " (" + model.ReasonText(j.GetReason()) + ")")
		}
		return nodes
	}
	switch by := newest(j).GetPreemptedBy(); {
	case j.GetReason() == fettlev1.Reason_REASON_DEPENDENCY && len(j.GetWaitingFor()) > 0:
		return "(Dependency: " + model.DependenciesText(j.GetWaitingFor(), j.GetSpec().GetDependencyAny()) + ")"
	case by != 0 && newest(j).GetOutcome() == model.Preempted:
		return "(" + model.ReasonText(j.GetReason()) + ", made room for " + strconv.FormatUint(by, 10) + ")"
	}
	return pendingReason(j.GetReason())
}

// exitText is a finished job's exit status, "-" where no process left one.
func exitText(j *fettlev1.Job) string {
	if !model.HasExitStatus(j) {
		return "-"
	}
	return strconv.Itoa(int(j.GetExitCode()))
}

// parseFormat reads -o: Slurm's percent format ("%.8i %20j %t") or a list of names ("jobid,name:20,st").
func parseFormat(g given) ([]queueColumn, []render.Column, error) {
	if strings.TrimSpace(g.value) == "" {
		return nil, nil, g.bad("is empty", "use for example \"%i %t %j\" or jobid,st,name:20")
	}
	if strings.Contains(g.value, "%") {
		return percentFormat(g)
	}
	var cols []queueColumn
	var out []render.Column
	for item := range strings.SplitSeq(g.value, ",") {
		name, width, sized := strings.Cut(strings.TrimSpace(item), ":")
		i := slices.IndexFunc(queueColumns, func(c queueColumn) bool { return c.name == strings.ToLower(name) })
		if i < 0 {
			names := make([]string, len(queueColumns))
			for i, c := range queueColumns {
				names[i] = c.name
			}
			remedy := "columns are " + strings.Join(names, ", ")
			if near := nearest(name, names); near != "" {
				remedy = "did you mean " + near + "?"
			}
			return nil, nil, g.bad("unknown column "+render.Quote(show(name)), remedy)
		}
		rc := queueColumns[i].column()
		if sized {
			n, err := strconv.Atoi(width)
			if err != nil || n < 1 || n > 1000 {
				return nil, nil, g.bad("the width "+render.Quote(show(width))+" is not a number from 1 to 1000", "")
			}
			rc.Fixed = n
		}
		rc.OmitEmpty, rc.Drop = false, 0
		cols, out = append(cols, queueColumns[i]), append(out, rc)
	}
	return cols, out, nil
}

// percentFormat reads fields of the form %[.][WIDTH]LETTER; a dot aligns to the right. What stands between fields does
// not matter: columns are always two spaces apart.
func percentFormat(g given) ([]queueColumn, []render.Column, error) {
	var cols []queueColumn
	var out []render.Column
	s := g.value
	for {
		_, rest, ok := strings.Cut(s, "%")
		if !ok {
			return cols, out, nil
		}
		right := strings.HasPrefix(rest, ".")
		rest = strings.TrimPrefix(rest, ".")
		digits := 0
		for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
			digits++
		}
		width := 0
		if digits > 0 {
			n, err := strconv.Atoi(rest[:digits])
			if err != nil || n < 1 || n > 1000 {
				return nil, nil, g.bad("the width "+render.Quote(show(rest[:digits]))+" is not a number from 1 to 1000", "")
			}
			width = n
		}
		rest = rest[digits:]
		if rest == "" {
			return nil, nil, g.bad("ends in an unfinished field", "write for example \"%i %t %j\"")
		}
		letter := rest[0]
		i := slices.IndexFunc(queueColumns, func(c queueColumn) bool { return c.letter != 0 && c.letter == letter })
		if i < 0 {
			return nil, nil, g.bad("unknown field "+render.Quote("%"+show(rest[:1])), "see fqueue --help for the letters and names")
		}
		rc := queueColumns[i].column()
		rc.Fixed, rc.OmitEmpty, rc.Drop = width, false, 0
		if width > 0 {
			rc.Right = right
		}
		cols, out = append(cols, queueColumns[i]), append(out, rc)
		s = rest[1:]
	}
}

func (c queueColumn) column() render.Column {
	return render.Column{Title: c.title, Right: c.right, Shrink: c.shrink, Drop: c.drop, OmitEmpty: c.omit}
}
