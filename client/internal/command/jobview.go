package command

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

// field is one labelled line; empty values are not shown.
type field struct{ label, value string }

// writeFields prints fields with their values in one column.
func writeFields(w io.Writer, fields []field) {
	width := 0
	for _, f := range fields {
		if f.value != "" {
			width = max(width, len(f.label))
		}
	}
	for _, f := range fields {
		if f.value != "" {
			fmt.Fprintf(w, "  %s:%s %s\n", f.label, strings.Repeat(" ", width-len(f.label)), render.Line(f.value))
		}
	}
}

// specFields is what a user asked for.
func specFields(s *fettlev1.JobSpec) []field {
	yes := func(b bool, text string) string {
		if b {
			return text
		}
		return ""
	}
	pri := ""
	if p := s.GetPriority(); p > 0 {
		pri = fmt.Sprintf("%d (%s)", p, model.Band(p))
	}
	mem := ""
	if m := s.GetMemMibPerNode(); m > 0 {
		mem = render.Size(m)
	}
	limit := ""
	if l := s.GetTimeLimitS(); l > 0 {
		limit = render.Span(l)
	}
	begin := ""
	if b := s.GetBeginMs(); b > 0 {
		begin = render.Time(b)
	}
	nodes := strconv.FormatUint(uint64(max(s.GetNodes(), 1)), 10)
	if s.GetGpusTotal().GetCount() > 0 {
		nodes = "as many as it takes"
	}
	vram := ""
	if v := s.GetVramMib(); v > 0 {
		vram = render.Size(v) + " of each GPU, shared with others"
	}
	deadline := ""
	if d := s.GetDeadlineMs(); d > 0 {
		deadline = render.Time(d)
	}
	array := ""
	if a := s.GetArray(); a != nil {
		array = model.ArrayText(a)
	}
	estimate := ""
	if e := s.GetEstimatedRunS(); e > 0 {
		estimate = "about " + render.Span(e)
	}
	devices := slices.Clone(s.GetDeviceUuids())
	for _, i := range s.GetDeviceIndexes() {
		devices = append(devices, "cuda:"+strconv.FormatUint(uint64(i), 10))
	}
	set := make([]string, len(s.GetSet()))
	for i, kv := range s.GetSet() {
		set[i] = kv.GetKey() + "=" + kv.GetValue()
	}
	requeue := fmt.Sprintf("after faults, %d retries", model.Retries(s))
	switch {
	case s.GetNoRequeue():
		requeue = "never"
	case model.Retries(s) == 1:
		requeue = "after faults, 1 retry"
	}
	return []field{
		{"Name", s.GetName()},
		{"Method", s.GetMethod()},
		{"Priority", pri},
		{"Partition", s.GetPartition()},
		{"Project", s.GetProject()},
		{"Comment", s.GetComment()},
		{"Array", array},
		{"After", model.DependenciesText(s.GetDependencies(), s.GetDependencyAny())},
		{"Nodes", nodes},
		{"GPUs", gpusAsked(s)},
		{"GPU memory", vram},
		{"Exclusive", yes(s.GetExclusive(), "no other job on its nodes")},
		{"CPUs", strconv.FormatUint(uint64(max(s.GetCpusPerNode(), 1)), 10) + " on each node"},
		{"Memory", mem},
		{"Only on", gres.FormatHosts(s.GetNodelist())},
		{"Not on", gres.FormatHosts(s.GetExclude())},
		{"Features", s.GetConstraint()},
		{"Devices", strings.Join(devices, ", ")},
		{"Reservation", s.GetReservation()},
		{"Time limit", limit},
		{"Estimate", estimate},
		{"Not before", begin},
		{"Deadline", deadline},
		{"May preempt", yes(s.GetPreempt(), "jobs of lesser rank")},
		{"Preemptible", yes(s.GetNoPreemptible(), "no")},
		{"Held", yes(s.GetHold(), "at submit")},
		{"Started again", requeue},
		{"Directory", s.GetWorkDir()},
		{"Output", s.GetStdoutPath()},
		{"Errors", s.GetStderrPath()},
		{"Config", s.GetConfigPath()},
		{"Overrides", strings.Join(set, " ")},
		{"Arguments", quoteArgs(s.GetArgs())},
	}
}

// gpusAsked is what a job asks of GPUs, in words; empty for none.
func gpusAsked(s *fettlev1.JobSpec) string {
	text := strings.ReplaceAll(gresText(s), "|", " or ")
	switch {
	case text == "":
		return ""
	case s.GetGpusTotal().GetCount() > 0:
		return text + " in all"
	}
	return text + " on each node"
}

// gresText is what a job asks of GPUs as one writes it; empty for none.
func gresText(s *fettlev1.JobSpec) string {
	choices := model.GPUChoices(s)
	if t := s.GetGpusTotal(); t.GetCount() > 0 {
		choices = []*fettlev1.GPURequest{t}
	}
	words := make([]string, len(choices))
	for i, g := range choices {
		words[i] = gres.GPUs{Type: g.GetType(), Count: int(g.GetCount())}.String()
	}
	return strings.Join(words, "|")
}

// quoteArgs shows arguments so that their ends can be told.
func quoteArgs(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		if a == "" || strings.ContainsAny(a, " \t\"'\\$") {
			a = render.Quote(a)
		}
		out[i] = a
	}
	return strings.Join(out, " ")
}

// writeJob prints everything about a job.
func (c *call) writeJob(w io.Writer, j *fettlev1.Job, now time.Time) error {
	fmt.Fprintln(w, c.env.Out.Paint(render.Bold, "Job "+api.NameOf(j)))
	state := model.StateName(j.GetState())
	if j.GetReason() != fettlev1.Reason_REASON_UNSPECIFIED {
		state += " (" + model.ReasonText(j.GetReason()) + ")"
	}
	fs := []field{
		{"User", fmt.Sprintf("%s (uid %d)", j.GetUser(), j.GetUid())},
		{"State", state},
		{"Detail", j.GetDetail()},
		{"Submitted", render.Time(j.GetSubmitMs())},
	}
	if j.GetArrayJobId() != 0 && j.GetId() != j.GetArrayJobId() {
		fs = append(fs, field{"Own number", strconv.FormatUint(j.GetId(), 10)})
	}
	if api.IsArray(j) {
		fs = append(fs, field{"Elements", arrayProgress(j)})
	}
	if len(j.GetWaitingFor()) > 0 {
		fs = append(fs, field{"Waits for", model.DependenciesText(j.GetWaitingFor(), j.GetSpec().GetDependencyAny())})
	}
	if j.GetState() == model.Pending && j.GetPredictedStartMs() > now.UnixMilli() {
		fs = append(fs, field{"Expected start", render.Time(j.GetPredictedStartMs())})
	}
	if n := j.GetPreemptedCount(); n > 0 {
		fs = append(fs, field{"Made room", render.Plural(uint64(n), "time") + ", " + lostWork(j) + " lost"})
	}
	if j.GetStartMs() > 0 {
		fs = append(fs, field{"Started", render.Time(j.GetStartMs())})
	}
	if j.GetEndMs() > 0 {
		fs = append(fs, field{"Ended", render.Time(j.GetEndMs())})
	}
	if j.GetStartMs() > 0 && !api.IsArray(j) {
		fs = append(fs, field{"Ran", render.Span(elapsed(j, now))})
	}
	if model.HasExitStatus(j) {
		fs = append(fs, field{"Exit status", strconv.Itoa(int(j.GetExitCode()))})
	}
	if p := j.GetProgress(); p.GetTotalSteps() > 0 {
		s := fmt.Sprintf("step %d of %d", p.GetStep(), p.GetTotalSteps())
		if p.Loss != nil {
			s += ", loss " + render.Number(p.GetLoss())
		}
		if p.GetRemainingS() >= 0 && !model.Terminal(j.GetState()) {
			s += ", " + render.Span(p.GetRemainingS()) + " left"
		}
		fs = append(fs, field{"Progress", s})
	}
	if j.GetCancelRequested() && model.HoldsResources(j.GetState()) {
		fs = append(fs, field{"Cancelled", "yes, its processes are being ended"})
	}
	writeFields(w, append(fs, specFields(j.GetSpec())...))
	if len(j.GetAttempts()) == 0 {
		return nil
	}
	t := render.NewTable(render.Column{Title: "ATTEMPT", Right: true}, render.Column{Title: "START"}, render.Column{Title: "RAN", Right: true},
		render.Column{Title: "NODES", Shrink: 8}, render.Column{Title: "OUTCOME"}, render.Column{Title: "EXIT", Right: true}, render.Column{Title: "DETAIL", Shrink: 12, OmitEmpty: true})
	for _, a := range j.GetAttempts() {
		attemptRow(t, a, now)
	}
	return t.Write(w, c.env.Out)
}

// arrayProgress says how far an array's elements are.
func arrayProgress(j *fettlev1.Job) string {
	var parts []string
	add := func(n uint64, what string) {
		if n > 0 {
			parts = append(parts, strconv.FormatUint(n, 10)+" "+what)
		}
	}
	c := j.GetArrayCounts()
	left := uint64(model.ArrayLen(j.GetArrayLeft().GetRanges()))
	if left > 0 {
		parts = append(parts, strconv.FormatUint(left, 10)+" not started ("+model.ArrayText(j.GetArrayLeft())+")")
	}
	add(uint64(c.GetPending()), "waiting")
	add(uint64(c.GetActive()), "active")
	add(uint64(c.GetCompleted()), "completed")
	add(uint64(c.GetFailed()), "failed")
	add(uint64(c.GetCancelled()), "cancelled")
	return strings.Join(parts, ", ")
}

// lostWork is the work that a job lost by making room for others.
func lostWork(j *fettlev1.Job) string {
	lost := int64(0)
	for _, a := range j.GetAttempts() {
		lost += a.GetLostGpuS()
	}
	return gpuTime(lost)
}

// gpuTime prints GPU-seconds as hours on one GPU: "1.5 GPU-hours", seconds below a minute.
func gpuTime(s int64) string {
	switch {
	case s < 60:
		return strconv.FormatInt(s, 10) + " GPU-seconds"
	case s < 3600:
		return strconv.FormatInt(s/60, 10) + " GPU-minutes"
	}
	return strconv.FormatFloat(float64(s)/3600, 'f', 1, 64) + " GPU-hours"
}

// neverRan reports whether no process of a job was ever started, so that it has no exit status of its own.
func neverRan(j *fettlev1.Job) bool {
	return j.GetStartMs() == 0 && (j.GetAttempt() == 0 || len(j.GetAttempts()) > 0) &&
		!slices.ContainsFunc(j.GetAttempts(), func(a *fettlev1.Attempt) bool { return a.GetStartMs() > 0 })
}

func attemptRow(t *render.Table, a *fettlev1.Attempt, now time.Time) {
	num(t, uint64(a.GetNumber()))
	t.Text(render.Time(a.GetStartMs()))
	switch {
	case a.GetStartMs() == 0:
		t.Text("-")
	case a.GetEndMs() > 0:
		span(t, max((a.GetEndMs()-a.GetStartMs())/1000, 1))
	default:
		span(t, max((now.UnixMilli()-a.GetStartMs())/1000, 1))
	}
	names := make([]string, len(a.GetNodes()))
	exit := "-"
	for i, n := range a.GetNodes() {
		names[i] = n.GetNode()
		if e := n.GetExit(); e != nil && (exit == "-" || exit == "0") {
			exit = exitWords(e)
		}
	}
	t.Text(gres.FormatHosts(names))
	outcome := "-"
	if a.GetOutcome() != fettlev1.JobState_JOB_STATE_UNSPECIFIED {
		outcome = model.StateName(a.GetOutcome())
		if a.GetReason() != fettlev1.Reason_REASON_UNSPECIFIED {
			outcome += " (" + model.ReasonText(a.GetReason()) + ")"
		}
	}
	t.Styled(stateStyle(a.GetOutcome()), outcome)
	t.Text(exit)
	t.Text(attemptDetail(a))
}

// attemptDetail is an attempt's detail with what a preemption cost.
func attemptDetail(a *fettlev1.Attempt) string {
	if a.GetPreemptedBy() == 0 && a.GetReason() != fettlev1.Reason_REASON_PREEMPTED {
		return a.GetDetail()
	}
	s := gpuTime(a.GetLostGpuS()) + " lost"
	if by := a.GetPreemptedBy(); by != 0 {
		s = "for job " + strconv.FormatUint(by, 10) + ", " + s
	}
	if d := a.GetDetail(); d != "" {
		s += ": " + d
	}
	return s
}

// exitWords is how a node's part ended: a status, a signal, or why there is neither.
func exitWords(e *fettlev1.Exit) string {
	switch {
	case e.GetNeverStarted():
		return "not started"
	case e.GetSignal() > 0:
		return signalName(int(e.GetSignal()))
	}
	return strconv.Itoa(int(e.GetCode()))
}
