package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

const reservationText = `Keeps nodes or GPUs for some users and projects, or for nobody (maintenance), over a time. Jobs
that ask for it with fsubmit --reservation NAME run in it. Others start on what is reserved
only if they are over before it begins: by their time limit, or by the controller's estimate of
their run time.


EXAMPLES
fctl reservation create maint --nodes gpu[01-04] --start 2026-12-01T08:00 --duration 4h
fctl reservation create demo --gpus h100:8 --start tomorrow --duration 2-0 --users alice
fctl reservation update maint --duration 6h
fctl reservation delete maint
`

func reservationCommand() *command {
	flags := func() []*option {
		return []*option{
			{name: "nodes", short: "w", arg: "LIST", help: "whole nodes, for example gpu[01-04]"},
			{name: "gpus", short: "G", arg: "[TYPE:]N", help: "that many GPUs, which the controller picks"},
			{name: "partition", short: "p", arg: "NAME", help: "pick the GPUs of --gpus on nodes of this partition"},
			{name: "start", short: "s", arg: "TIME", help: "from then on: now (the default), 16:00, tomorrow, 2006-01-31T16:00"},
			{name: "end", short: "e", arg: "TIME", help: "until then, or never: until it is deleted"},
			{name: "duration", short: "d", arg: "TIME", help: "for so long, instead of --end: 90m, 4:00:00, 2-0"},
			{name: "users", short: "u", arg: "USER,...", help: "whose jobs may run in it; * for everyone's"},
			{name: "projects", short: "A", arg: "NAME,...", help: "whose jobs may run in it"},
			{name: "comment", arg: "TEXT", help: "why"},
		}
	}
	return &command{name: "reservation", brief: "keep nodes or GPUs for a time", text: reservationText,
		synopsis: "fctl reservation list\nfctl reservation create NAME [flags]\nfctl reservation update NAME [flags]\nfctl reservation delete NAME...", subs: []*command{
			{name: "list", brief: "list reservations", synopsis: "fctl reservation list [flags]", run: runReservationList},
			{name: "create", brief: "make a reservation", synopsis: "fctl reservation create NAME --nodes LIST|--gpus N [flags]", text: reservationText, flags: flags(), run: runReservationSet(false)},
			{name: "update", brief: "change a reservation", synopsis: "fctl reservation update NAME [flags]", text: "What is not named stays as it is.", flags: flags(), run: runReservationSet(true)},
			{name: "delete", brief: "end reservations", synopsis: "fctl reservation delete NAME...", run: runReservationDelete},
		}}
}

func (c *call) reservations(ctx context.Context, cl *api.Client, level fettlev1.ReadLevel) (*fettlev1.ListReservationsResponse, error) {
	return api.Do(ctx, cl, api.Read, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.ListReservationsResponse, error) {
		return s.ListReservations(ctx, &fettlev1.ListReservationsRequest{Read: &fettlev1.ReadOptions{Level: level}})
	})
}

func runReservationList(ctx context.Context, c *call) error {
	if err := c.noArgs(); err != nil {
		return err
	}
	cl, err := c.api()
	if err != nil {
		return err
	}
	r, err := c.reservations(ctx, cl, 0)
	if err != nil {
		return err
	}
	if c.on("json") {
		_, err := c.env.Stdout.Write(append(render.AppendMessage(nil, r), '\n'))
		return err
	}
	if len(r.GetReservations()) == 0 {
		_, err := fmt.Fprintln(c.env.Stdout, "Nothing is reserved.")
		return err
	}
	return c.reservationTable(r.GetReservations()).Write(c.env.Stdout, c.env.Out)
}

func (c *call) reservationTable(list []*fettlev1.Reservation) *render.Table {
	t := render.NewTable(render.Column{Title: "RESERVATION", Shrink: 8}, render.Column{Title: "STATE"}, render.Column{Title: "START"}, render.Column{Title: "END"},
		render.Column{Title: "WHAT", Shrink: 12}, render.Column{Title: "FOR", Shrink: 8}, render.Column{Title: "COMMENT", Shrink: 8, Drop: 1, OmitEmpty: true})
	now := c.env.Now().UnixMilli()
	for _, r := range list {
		t.Text(r.GetName())
		switch {
		case r.GetStartMs() > now:
			t.Styled(render.Yellow, "to come")
		case r.GetEndMs() != 0 && r.GetEndMs() <= now:
			t.Styled(render.Dim, "over")
		default:
			t.Styled(render.Green, "active")
		}
		t.Text(render.Time(r.GetStartMs()))
		end := "never"
		if r.GetEndMs() > 0 {
			end = render.Time(r.GetEndMs())
		}
		t.Text(end)
		t.Text(reservedText(r))
		t.Text(reservedFor(r))
		t.Text(r.GetComment())
	}
	return t
}

// reservedText is what is reserved: "gpu[01-04]", "gpu:h100:8 on gpu[01-02]".
func reservedText(r *fettlev1.Reservation) string {
	if r.GetGpus() == 0 {
		return r.GetNodes()
	}
	s := gres.GPUs{Type: r.GetGpuType(), Count: int(r.GetGpus())}.String()
	nodes := make([]string, len(r.GetPicked()))
	for i, p := range r.GetPicked() {
		nodes[i] = p.GetNode()
	}
	switch {
	case len(nodes) > 0:
		s += " on " + gres.FormatHosts(nodes)
	case r.GetPartition() != "":
		s += " in partition " + r.GetPartition()
	}
	return s
}

// reservedFor is who may use a reservation.
func reservedFor(r *fettlev1.Reservation) string {
	var parts []string
	if len(r.GetUsers()) > 0 {
		parts = append(parts, strings.Join(r.GetUsers(), ","))
	}
	if len(r.GetProjects()) > 0 {
		parts = append(parts, "project "+strings.Join(r.GetProjects(), ","))
	}
	return cmp.Or(strings.Join(parts, "; "), "nobody")
}

// reservationName reads the one argument.
func (c *call) reservationName() (string, error) {
	switch {
	case len(c.args) == 0:
		return "", usagef("no reservation named", "give it a name such as maint")
	case len(c.args) > 1:
		return "", usagef("unexpected argument "+render.Quote(show(c.args[1])), "name one reservation")
	}
	return c.args[0], nil
}

func runReservationSet(update bool) func(context.Context, *call) error {
	return func(ctx context.Context, c *call) error {
		name, err := c.reservationName()
		if err != nil {
			return err
		}
		if len(c.flags) == 0 || len(c.flags) == 1 && (c.on("json") || c.on("controllers")) {
			return usagef("says nothing of "+render.Quote(show(name)), "give for example --nodes gpu[01-04] --start 16:00 --duration 2h")
		}
		r := &fettlev1.Reservation{Name: name}
		if !update {
			if err := c.reserve(r); err != nil {
				return err
			}
			if err := model.ValidateReservation(r); err != nil {
				return &usageError{msg: err.Error()}
			}
		} else if err := c.reserve(&fettlev1.Reservation{Name: name}); err != nil {
			return err
		}
		cl, err := c.api()
		if err != nil {
			return err
		}
		have, err := c.reservations(ctx, cl, fettlev1.ReadLevel_READ_LEVEL_LINEARIZABLE)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(have.GetReservations(), func(x *fettlev1.Reservation) bool { return x.GetName() == name })
		switch {
		case i >= 0 && !update:
			return fmt.Errorf("reservation %s exists already; change it with fctl reservation update", show(name))
		case i < 0 && update:
			return fmt.Errorf("no reservation %s; fctl reservation list shows them", show(name))
		case update:
			r = have.GetReservations()[i]
			if err := c.reserve(r); err != nil {
				return err
			}
			r.Picked = nil
		}
		req := &fettlev1.SetReservationRequest{RequestId: api.NewRequestID(), Reservation: r}
		resp, err := api.Do(ctx, cl, api.Write, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.SetReservationResponse, error) {
			return s.SetReservation(ctx, req)
		})
		if err != nil {
			return err
		}
		if c.on("json") {
			_, err := c.env.Stdout.Write(append(render.AppendMessage(nil, resp), '\n'))
			return err
		}
		if got := resp.GetReservation(); got != nil {
			r = got
		}
		end := "until it is deleted"
		if r.GetEndMs() > 0 {
			end = "to " + render.Time(r.GetEndMs())
		}
		start := "now"
		if r.GetStartMs() > 0 {
			start = render.Time(r.GetStartMs())
		}
		if _, err := fmt.Fprintf(c.env.Stdout, "Reserved %s from %s %s for %s\n", render.Line(reservedText(r)), start, end, render.Line(reservedFor(r))); err != nil {
			return err
		}
		if n := len(resp.GetJobsInTheWay()); n > 0 {
			c.note("warning: " + jobWord(n) + " " + gres.FormatJobIDs(resp.GetJobsInTheWay()) + " may still run there when it begins; nothing is done to them")
		}
		return nil
	}
}

// reserve puts the flags into a reservation.
func (c *call) reserve(r *fettlev1.Reservation) error {
	now := c.env.Now()
	if c.on("nodes") && c.on("gpus") {
		g, _ := c.get("gpus")
		return usagef(g.written+": does not go with --nodes", "reserve whole nodes or GPUs")
	}
	if c.on("end") && c.on("duration") {
		return usagef("--duration: does not go with --end", "give one of them")
	}
	if g, ok := c.get("nodes"); ok {
		hosts, err := gres.ExpandHosts(g.value)
		if err != nil {
			return g.wrap(err)
		}
		r.Nodes, r.Gpus, r.GpuType, r.Partition = gres.FormatHosts(hosts), 0, "", ""
	}
	if g, ok := c.get("gpus"); ok {
		n, err := gres.ParseGPUs(g.value)
		if err != nil {
			return g.wrap(err)
		}
		r.Nodes, r.Gpus, r.GpuType = "", uint32(n.Count), n.Type
	}
	if g, ok := c.get("partition"); ok {
		r.Partition = g.value
	}
	if g, ok := c.get("start"); ok {
		ms, err := g.moment(now)
		if err != nil {
			return err
		}
		r.StartMs = ms
	}
	switch g, ok := c.get("end"); {
	case ok && strings.EqualFold(g.value, "never"):
		r.EndMs = 0
	case ok:
		ms, err := g.moment(now)
		if err != nil {
			return err
		}
		r.EndMs = ms
	}
	if g, ok := c.get("duration"); ok {
		d, err := gres.ParseDuration(g.value)
		if err != nil {
			return g.wrap(err)
		}
		if d < time.Second {
			return g.bad("is zero", "use for example 4h")
		}
		from := r.GetStartMs()
		if from == 0 {
			from = now.UnixMilli()
		}
		r.EndMs = from + d.Milliseconds()
	}
	for _, l := range []struct {
		flag string
		into *[]string
	}{{"users", &r.Users}, {"projects", &r.Projects}} {
		if g, ok := c.get(l.flag); ok {
			*l.into = nil
			for v := range strings.SplitSeq(g.value, ",") {
				if v = strings.TrimSpace(v); v != "" {
					*l.into = append(*l.into, v)
				}
			}
		}
	}
	if g, ok := c.get("comment"); ok {
		r.Comment = g.value
	}
	return nil
}

// moment reads a time to come in Unix milliseconds.
func (g given) moment(now time.Time) (int64, error) {
	at, err := gres.ParseBegin(g.value, now, time.Local)
	if err != nil {
		return 0, g.wrap(err)
	}
	return at.UnixMilli(), nil
}

func runReservationDelete(ctx context.Context, c *call) error {
	if len(c.args) == 0 {
		return usagef("no reservation named", "fctl reservation list shows them")
	}
	cl, err := c.api()
	if err != nil {
		return err
	}
	var failed several
	for _, name := range c.args {
		req := &fettlev1.RemoveReservationRequest{RequestId: api.NewRequestID(), Name: name}
		r, err := api.Do(ctx, cl, api.Write, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.RemoveReservationResponse, error) {
			return s.RemoveReservation(ctx, req)
		})
		var e *api.Error
		switch {
		case errors.As(err, &e) && e.Code != unavailable:
			failed = append(failed, err)
			continue
		case err != nil:
			return err
		case c.on("json"):
			err = c.headerLine(r.GetHeader())
		default:
			_, err = fmt.Fprintln(c.env.Stdout, "Deleted reservation", render.Line(name))
		}
		if err != nil {
			return err
		}
	}
	if len(failed) > 0 {
		return failed
	}
	return nil
}
