package command

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
)

func runShowNode(ctx context.Context, c *call) error {
	names, err := c.nodeNames(c.args)
	if err != nil {
		return err
	}
	return c.showNodes(ctx, names, true, true)
}

// neededNodes reads node names from the arguments, at least one.
func (c *call) neededNodes() ([]string, error) {
	if len(c.args) == 0 {
		return nil, usagef("no nodes named", "give node names such as gpu01 or gpu[01-04]")
	}
	return c.nodeNames(c.args)
}

func runDrain(ctx context.Context, c *call) error {
	names, err := c.neededNodes()
	if err != nil {
		return err
	}
	g, ok := c.get("reason")
	if !ok || g.value == "" {
		return usagef("--reason: is missing", "say why, for those who look at finfo")
	}
	return c.updateNodes(ctx, names, fettlev1.NodeAction_NODE_ACTION_DRAIN, g.value, "Drained")
}

func nodeAction(action fettlev1.NodeAction, done string) func(context.Context, *call) error {
	return func(ctx context.Context, c *call) error {
		names, err := c.neededNodes()
		if err != nil {
			return err
		}
		return c.updateNodes(ctx, names, action, "", done)
	}
}

func runDeclareDead(ctx context.Context, c *call) error {
	names, err := c.neededNodes()
	if err != nil {
		return err
	}
	if !c.on("yes") && c.env.In.TTY {
		if err := c.ask(ctx, "Are you certain that nothing runs on "+gres.FormatHosts(names)+" any more?"); err != nil {
			return err
		}
	}
	g, _ := c.get("reason")
	return c.updateNodes(ctx, names, fettlev1.NodeAction_NODE_ACTION_DECLARE_DEAD, g.value, "Declared dead:")
}

func runRemoveNode(ctx context.Context, c *call) error {
	names, err := c.neededNodes()
	if err != nil {
		return err
	}
	if !c.on("yes") && c.env.In.TTY {
		if err := c.ask(ctx, "Forget "+gres.FormatHosts(names)+"?"); err != nil {
			return err
		}
	}
	return c.updateNodes(ctx, names, fettlev1.NodeAction_NODE_ACTION_REMOVE, "", "Removed")
}

// updateNodes does one thing to each node.
func (c *call) updateNodes(ctx context.Context, names []string, action fettlev1.NodeAction, reason, done string) error {
	cl, err := c.api()
	if err != nil {
		return err
	}
	var failed several
	var ok []string
	doc := []byte(`{"results":[`)
	for i, name := range names {
		req := &fettlev1.UpdateNodeRequest{RequestId: api.NewRequestID(), Node: name, Action: action, Reason: reason}
		r, err := api.Do(ctx, cl, api.Write, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.UpdateNodeResponse, error) {
			return s.UpdateNode(ctx, req)
		})
		if api.IsCode(err, codes.Unavailable) || ctx.Err() != nil && err != nil {
			return err
		}
		if i > 0 {
			doc = append(doc, ',')
		}
		doc = render.AppendMessage(append(doc, `{"node":`...), r.GetNode())
		doc = append(doc, `,"error":`...)
		if err != nil {
			if !strings.Contains(err.Error(), name) {
				err = fmt.Errorf("node %s: %w", name, err)
			}
			failed = append(failed, err)
			doc = render.AppendMessage(doc, errorDetail(err))
		} else {
			ok = append(ok, name)
			doc = append(doc, "null"...)
		}
		doc = append(doc, '}')
	}
	switch {
	case c.on("json"):
		_, err = c.env.Stdout.Write(append(doc, "]}\n"...))
	case len(ok) > 0:
		_, err = fmt.Fprintln(c.env.Stdout, done, gres.FormatHosts(ok))
	}
	if err != nil {
		return err
	}
	if len(failed) > 0 {
		return failed
	}
	return nil
}

// errorDetail is a refusal as a message.
func errorDetail(err error) *fettlev1.ErrorDetail {
	e := api.FromStatus(err)
	return &fettlev1.ErrorDetail{Field: e.Field, Problem: e.Problem, Remedy: e.Remedy}
}

// cluster asks every controller that is known how it is. The first answer is the one to show; others tell whether each
// controller is there.
func (c *call) cluster(ctx context.Context) (*fettlev1.GetClusterResponse, error) {
	cl, err := c.api()
	if err != nil {
		return nil, err
	}
	return api.Do(ctx, cl, api.Read, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.GetClusterResponse, error) {
		return s.GetCluster(ctx, &fettlev1.GetClusterRequest{})
	})
}

func runShowCluster(ctx context.Context, c *call) error {
	if err := c.noArgs(); err != nil {
		return err
	}
	r, err := c.cluster(ctx)
	if err != nil {
		return err
	}
	if c.on("json") {
		_, err := c.env.Stdout.Write(append(render.AppendMessage(nil, r), '\n'))
		return err
	}
	h := r.GetHeader()
	leader := h.GetLeaderName()
	switch {
	case h.GetIsLeader():
		leader = h.GetServerName()
	case leader == "":
		leader = "none known"
	}
	w := bufio.NewWriter(c.env.Stdout)
	fs := []field{
		{"Cluster", h.GetClusterId()},
		{"Leader", leader},
		{"Answered by", fmt.Sprintf("%s, version %s, up since %s", h.GetServerName(), r.GetVersion(), render.Time(r.GetStartMs()))},
		{"Term, index", fmt.Sprintf("%d, %d", h.GetTerm(), h.GetIndex())},
		{"State hash", r.GetStateHash()},
		{"Jobs", fmt.Sprintf("%s waiting, %s active, %s known", render.Count(r.GetJobsPending()), render.Count(r.GetJobsRunning()), render.Count(r.GetJobsTotal()))},
	}
	if s := r.GetScheduler(); s.GetCycles() > 0 {
		fs = append(fs, field{"Scheduling", fmt.Sprintf("%s cycles, last %s, 99th percentile %s", render.Count(s.GetCycles()),
			micros(s.GetLastCycleUs()), micros(s.GetP99CycleUs()))})
	}
	if s := r.GetScheduler(); s.GetPolicy() != "" {
		p := s.GetPolicy()
		if s.GetFallbackReason() != "" {
			p += " (" + s.GetFallbackReason() + ")"
		}
		fs = append(fs, field{"Policy", p})
	}
	writeFields(w, fs)
	fmt.Fprintln(w)
	if err := c.serverTable(r).Write(w, c.env.Out); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if s := staleNote(h); s != "" {
		c.note("note: " + s)
	}
	if s := quorumNote(r); s != "" {
		c.note(s)
	}
	return nil
}

func micros(us int64) string { return (time.Duration(us) * time.Microsecond).String() }

func (c *call) serverTable(r *fettlev1.GetClusterResponse) *render.Table {
	t := render.NewTable(render.Column{Title: "CONTROLLER", Shrink: 8}, render.Column{Title: "ROLE"}, render.Column{Title: "CONTACT", Drop: 3}, render.Column{Title: "CLIENTS", Shrink: 12},
		render.Column{Title: "RAFT", Shrink: 12, Drop: 2}, render.Column{Title: "ID", Shrink: 8, Drop: 1})
	for _, s := range r.GetServers() {
		t.Text(s.GetName())
		switch {
		case s.GetUnreachable():
			t.Styled(render.Red, "unreachable")
		case s.GetLeader():
			t.Styled(render.Green, "leader")
		case s.GetVoter():
			t.Text("follower")
		default:
			t.Styled(render.Yellow, "joining")
		}
		t.Text(render.Time(s.GetLastContactMs()))
		t.Text(s.GetClientAddr())
		t.Text(s.GetRaftAddr())
		t.Text(s.GetId())
	}
	return t
}

// quorumNote warns of controllers that are out of contact; "" when there are none. The votes of most are needed for all
// that changes anything.
func quorumNote(r *fettlev1.GetClusterResponse) string {
	var gone []string
	voters := 0
	for _, s := range r.GetServers() {
		if s.GetVoter() {
			if voters++; s.GetUnreachable() {
				gone = append(gone, s.GetName())
			}
		}
	}
	if len(gone) == 0 {
		return ""
	}
	text := "warning: no contact with " + strings.Join(gone, ", ")
	switch spare := (voters-1)/2 - len(gone); {
	case spare < 0:
		return text + ": the others are too few to accept anything"
	case spare == 0:
		return text + ": if one more is lost, nothing is accepted any more"
	default:
		return text + ": " + strconv.Itoa(spare) + " more may be lost"
	}
}

func runRaftList(ctx context.Context, c *call) error {
	if err := c.noArgs(); err != nil {
		return err
	}
	r, err := c.cluster(ctx)
	if err != nil {
		return err
	}
	if c.on("json") {
		_, err := c.env.Stdout.Write(append(render.AppendMessage(nil, r), '\n'))
		return err
	}
	if err := c.serverTable(r).Write(c.env.Stdout, c.env.Out); err != nil {
		return err
	}
	if s := staleNote(r.GetHeader()); s != "" {
		c.note("note: " + s)
	}
	if s := quorumNote(r); s != "" {
		c.note(s)
	}
	return nil
}

func runRaftTransfer(ctx context.Context, c *call) error {
	if err := c.noArgs(); err != nil {
		return err
	}
	g, _ := c.get("to")
	cl, err := c.api()
	if err != nil {
		return err
	}
	r, err := api.Do(ctx, cl, api.Once, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.TransferLeadershipResponse, error) {
		return s.TransferLeadership(ctx, &fettlev1.TransferLeadershipRequest{To: g.value})
	})
	if err != nil {
		return err
	}
	if c.on("json") {
		return c.headerLine(r.GetHeader())
	}
	_, err = fmt.Fprintln(c.env.Stdout, "Leadership is handed over; see fctl raft list")
	return err
}

func runRaftRemove(ctx context.Context, c *call) error {
	switch {
	case len(c.args) == 0:
		return usagef("no controller named", "give its name or id as fctl raft list shows it")
	case len(c.args) > 1:
		return usagef("unexpected argument "+render.Quote(show(c.args[1])), "remove one controller at a time")
	}
	if !c.on("yes") && c.env.In.TTY {
		if err := c.ask(ctx, "Take controller "+render.Line(c.args[0])+" out of the group for good?"); err != nil {
			return err
		}
	}
	cl, err := c.api()
	if err != nil {
		return err
	}
	r, err := api.Do(ctx, cl, api.Once, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.RemoveServerResponse, error) {
		return s.RemoveServer(ctx, &fettlev1.RemoveServerRequest{Server: c.args[0]})
	})
	if err != nil {
		return err
	}
	if c.on("json") {
		return c.headerLine(r.GetHeader())
	}
	_, err = fmt.Fprintln(c.env.Stdout, "Removed controller", render.Line(c.args[0]))
	return err
}

func (c *call) headerLine(h *fettlev1.Header) error {
	b := render.AppendMessage([]byte(`{"header":`), h)
	_, err := c.env.Stdout.Write(append(b, '}', '\n'))
	return err
}

func runPluginList(ctx context.Context, c *call) error {
	if err := c.noArgs(); err != nil {
		return err
	}
	cl, err := c.api()
	if err != nil {
		return err
	}
	r, err := api.Do(ctx, cl, api.Read, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.ListPluginsResponse, error) {
		return s.ListPlugins(ctx, &fettlev1.ListPluginsRequest{})
	})
	if err != nil {
		return err
	}
	if c.on("json") {
		_, err := c.env.Stdout.Write(append(render.AppendMessage(nil, r), '\n'))
		return err
	}
	t := render.NewTable(render.Column{Title: "PLUGIN", Shrink: 10}, render.Column{Title: "KIND"}, render.Column{Title: "VERSION", Shrink: 6, Drop: 3}, render.Column{Title: "ABI", Right: true, Drop: 1},
		render.Column{Title: "STATE"}, render.Column{Title: "CALLS", Right: true}, render.Column{Title: "FAILED", Right: true}, render.Column{Title: "RESTARTS", Right: true, Drop: 2},
		render.Column{Title: "P50", Right: true, Drop: 4}, render.Column{Title: "P99", Right: true, Drop: 5}, render.Column{Title: "LAST_ERROR", Shrink: 12, OmitEmpty: true})
	for _, p := range r.GetPlugins() {
		t.Text(p.GetName())
		t.Text(p.GetKind())
		t.Text(p.GetVersion())
		t.Text(strconv.FormatUint(uint64(p.GetAbiVersion()), 10))
		t.Styled(pluginStyle(p.GetState()), p.GetState())
		num(t, p.GetCalls())
		num(t, p.GetFailures())
		num(t, p.GetRestarts())
		t.Text(micros(p.GetP50Us()))
		t.Text(micros(p.GetP99Us()))
		t.Text(p.GetLastError())
	}
	return t.Write(c.env.Stdout, c.env.Out)
}

func pluginStyle(state string) render.Style {
	switch state {
	case "running":
		return render.Green
	case "failed":
		return render.Red
	}
	return render.Yellow
}
