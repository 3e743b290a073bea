package command

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/fettle-hpc/fettle/client/api"
	"github.com/fettle-hpc/fettle/client/render"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
)

func infoCommand() *command {
	return &command{
		name:     "finfo",
		brief:    "show nodes and GPUs",
		synopsis: "finfo [flags] [NODES...]",
		text:     infoText,
		flags: []*option{
			{name: "nodes", short: "n", arg: "LIST", help: "these nodes, for example gpu[01-04]; also as plain arguments"},
			{name: "summary", short: "s", help: "nodes only, without their GPUs"},
			{name: "verbose", short: "v", help: "for each node also what its host does not enforce, its versions and its methods"},
			{name: "noheader", help: "leave out the lines of titles"},
		},
		run: runInfo,
	}
}

const infoText = `Shows the nodes with what jobs hold of them (used/total), and their GPUs with memory in use,
utilisation, temperature, power, health and the job that holds them. A GPU that jobs share by memory
(fsubmit --vram) names them all, with what of its memory they have been given under SHARED. One that
is "busy outside" has processes on it that are no job's: it is given to nobody until they are gone.

FEATURES are what fsubmit --constraint refers to; RESERVED names reservations that are in force or to
come (fctl reservation list).

A GPU marked "declared" was not detected: the node's config says that it is there. ISOLATION is
what the host lets fettle enforce: full, partial or none; -v lists what is missing.

States: up; unreachable (no contact: its jobs are taken to be running on); down (declared dead, or
restarted and not back). "+drain" means that it gets no new jobs.


EXAMPLES
finfo
finfo -v gpu01
finfo --json | jq '.nodes[].inventory.gpus | length'


SEE ALSO
fctl drain, fctl resume, fctl node
`

func runInfo(ctx context.Context, c *call) error {
	names, err := c.nodeNames(c.args)
	if err != nil {
		return err
	}
	return c.showNodes(ctx, names, c.on("verbose"), !c.on("summary"))
}

// nodeNames expands node lists from arguments and from --nodes.
func (c *call) nodeNames(args []string) ([]string, error) {
	var names []string
	for _, a := range args {
		list, err := gres.ExpandHosts(a)
		if err != nil {
			return nil, &usageError{msg: gres.Rename(err, "nodes").Error()}
		}
		names = append(names, list...)
	}
	for _, g := range c.all("nodes") {
		list, err := gres.ExpandHosts(g.value)
		if err != nil {
			return nil, g.wrap(err)
		}
		names = append(names, list...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// showNodes fetches and prints nodes; all of them when names is empty.
func (c *call) showNodes(ctx context.Context, names []string, verbose, gpus bool) error {
	cl, err := c.api()
	if err != nil {
		return err
	}
	cl.PreferLeader(ctx)
	r, err := api.Do(ctx, cl, api.Read, func(ctx context.Context, s fettlev1.ControllerServiceClient) (*fettlev1.ListNodesResponse, error) {
		return s.ListNodes(ctx, &fettlev1.ListNodesRequest{Names: names})
	})
	if err != nil {
		return err
	}
	var reserved []*fettlev1.Reservation
	if !c.on("json") {
		list, err := c.reservations(ctx, cl, 0)
		if err != nil && !api.IsCode(err, codes.Unimplemented) {
			return err
		}
		reserved = list.GetReservations()
	}
	nodes := r.GetNodes()
	slices.SortFunc(nodes, func(a, b *fettlev1.Node) int { return gres.CompareHosts(a.GetName(), b.GetName()) })
	if c.on("json") {
		if _, err := c.env.Stdout.Write(append(render.AppendMessage(nil, r), '\n')); err != nil {
			return err
		}
	} else {
		w := bufio.NewWriter(c.env.Stdout)
		if len(nodes) == 0 && len(names) == 0 {
			fmt.Fprintln(w, "No node has registered yet.")
		} else if err := c.writeNodes(w, nodes, reserved, verbose, gpus); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if s := staleNote(r.GetHeader()); s != "" {
			c.note("note: " + s)
		}
	}
	var missing []string
	for _, n := range names {
		if !slices.ContainsFunc(nodes, func(x *fettlev1.Node) bool { return x.GetName() == n }) {
			missing = append(missing, n)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("no such node: %s; finfo lists those that there are", gres.FormatHosts(missing))
	}
	return nil
}

func (c *call) writeNodes(w io.Writer, nodes []*fettlev1.Node, reserved []*fettlev1.Reservation, verbose, gpus bool) error {
	if err := c.nodeTable(nodes, reserved).Write(w, c.env.Out); err != nil {
		return err
	}
	if gpus {
		if t := c.gpuTable(nodes); t.Rows() > 0 {
			fmt.Fprintln(w)
			if err := t.Write(w, c.env.Out); err != nil {
				return err
			}
		}
	}
	if verbose {
		for _, n := range nodes {
			fmt.Fprintln(w)
			fmt.Fprintln(w, c.env.Out.Paint(render.Bold, render.Line(n.GetName())))
			writeFields(w, nodeFields(n, c.env.Now()))
		}
	}
	return nil
}

func (c *call) nodeTable(nodes []*fettlev1.Node, reserved []*fettlev1.Reservation) *render.Table {
	names := reservedNodes(reserved)
	t := render.NewTable(render.Column{Title: "NODE", Shrink: 8}, render.Column{Title: "STATE", Shrink: 8}, render.Column{Title: "CPUS", Right: true},
		render.Column{Title: "MEM", Right: true}, render.Column{Title: "GPUS", Right: true}, render.Column{Title: "TYPE", Shrink: 6, Drop: 2},
		render.Column{Title: "FEATURES", Shrink: 8, Drop: 3, OmitEmpty: true}, render.Column{Title: "ISOLATION", Drop: 1},
		render.Column{Title: "RESERVED", Shrink: 8, OmitEmpty: true}, render.Column{Title: "REASON", Shrink: 10, OmitEmpty: true})
	t.NoHeader = c.on("noheader")
	for _, n := range nodes {
		inv := n.GetInventory()
		t.Text(n.GetName())
		t.Styled(nodeStyle(n), nodeState(n))
		t.Text(fmt.Sprintf("%d/%d", n.GetCpusUsed(), inv.GetCpus()))
		t.Text(render.Size(n.GetMemUsedMib()) + "/" + render.Size(inv.GetMemoryMib()))
		t.Text(fmt.Sprintf("%d/%d", gpusHeld(n), len(inv.GetGpus())))
		t.Text(gpuTypes(inv.GetGpus()))
		t.Text(strings.Join(inv.GetFeatures(), ","))
		t.Text(isolation(inv))
		t.Text(strings.Join(names[n.GetName()], ","))
		t.Text(nodeReason(n))
	}
	return t
}

// reservedNodes are the reservations, in force or to come, by the nodes that they touch.
func reservedNodes(list []*fettlev1.Reservation) map[string][]string {
	out := make(map[string][]string)
	for _, r := range list {
		// The controller has checked the list.
		nodes, _ := gres.ExpandHosts(r.GetNodes())
		for _, p := range r.GetPicked() {
			nodes = append(nodes, p.GetNode())
		}
		for _, n := range nodes {
			out[n] = append(out[n], r.GetName())
		}
	}
	return out
}

// gpusHeld is how many of a node's GPUs jobs hold, whole or in part.
func gpusHeld(n *fettlev1.Node) int {
	held := make(map[string]bool)
	for _, h := range n.GetGpuHolders() {
		held[h.GetUuid()] = true
	}
	return len(held)
}

// nodeReason is why a node is drained, or whose alone it is.
func nodeReason(n *fettlev1.Node) string {
	if id := n.GetExclusiveJob(); id != 0 && n.GetDrainReason() == "" {
		return "for job " + strconv.FormatUint(id, 10) + " alone"
	}
	return n.GetDrainReason()
}

// nodeState is a node's state in one word.
func nodeState(n *fettlev1.Node) string {
	s := ""
	switch n.GetState() {
	case fettlev1.NodeState_NODE_STATE_UP:
		s = "up"
	case fettlev1.NodeState_NODE_STATE_UNREACHABLE:
		s = "unreachable"
	case fettlev1.NodeState_NODE_STATE_DOWN:
		s = "down"
	default:
		s = "unknown"
	}
	if n.GetDrained() {
		s += "+drain"
	}
	return s
}

func nodeStyle(n *fettlev1.Node) render.Style {
	switch {
	case n.GetState() == fettlev1.NodeState_NODE_STATE_UP && n.GetDrained():
		return render.Yellow
	case n.GetState() == fettlev1.NodeState_NODE_STATE_UP:
		return render.Green
	}
	return render.Red
}

func isolation(inv *fettlev1.Inventory) string {
	if l := inv.GetIsolation().GetLevel(); l != "" {
		return l
	}
	return "unknown"
}

// gpuTypes lists the types of GPUs with their numbers where there is more than one: "h100", "2 a100, 6 h100".
func gpuTypes(gpus []*fettlev1.GPU) string {
	count := make(map[string]int)
	var order []string
	for _, g := range gpus {
		typ := g.GetType()
		if typ == "" {
			typ = "gpu"
		}
		if g.GetDeclared() {
			typ += " (declared)"
		}
		if count[typ] == 0 {
			order = append(order, typ)
		}
		count[typ]++
	}
	switch len(order) {
	case 0:
		return "-"
	case 1:
		return order[0]
	}
	for i, typ := range order {
		order[i] = strconv.Itoa(count[typ]) + " " + typ
	}
	return strings.Join(order, ", ")
}

func (c *call) gpuTable(nodes []*fettlev1.Node) *render.Table {
	t := render.NewTable(render.Column{Title: "NODE", Shrink: 8}, render.Column{Title: "GPU", Right: true}, render.Column{Title: "TYPE", Shrink: 6},
		render.Column{Title: "MODEL", Shrink: 8, Drop: 1, OmitEmpty: true}, render.Column{Title: "MEMORY", Right: true, Drop: 6}, render.Column{Title: "UTIL", Right: true, Drop: 5},
		render.Column{Title: "TEMP", Right: true, Drop: 4}, render.Column{Title: "POWER", Right: true, Drop: 3}, render.Column{Title: "HEALTH", Shrink: 8},
		render.Column{Title: "SHARED", Right: true, Drop: 2, OmitEmpty: true}, render.Column{Title: "JOB", Right: true})
	t.NoHeader = c.on("noheader")
	for _, n := range nodes {
		readings := make(map[string]*fettlev1.GPUReading, len(n.GetReadings()))
		for _, r := range n.GetReadings() {
			readings[r.GetUuid()] = r
		}
		holders := make(map[string][]*fettlev1.GPUHolder, len(n.GetGpuHolders()))
		for _, h := range n.GetGpuHolders() {
			holders[h.GetUuid()] = append(holders[h.GetUuid()], h)
		}
		for _, g := range n.GetInventory().GetGpus() {
			gpuRow(t, n, g, readings[g.GetUuid()], holders[g.GetUuid()])
		}
	}
	return t
}

func gpuRow(t *render.Table, n *fettlev1.Node, g *fettlev1.GPU, r *fettlev1.GPUReading, holders []*fettlev1.GPUHolder) {
	t.Text(n.GetName())
	num(t, uint64(g.GetIndex()))
	typ := g.GetType()
	if typ == "" {
		typ = "-"
	}
	t.Text(typ)
	t.Text(g.GetModel())
	mem := "-"
	if g.GetMemoryMib() > 0 {
		mem = render.Size(g.GetMemoryMib())
	}
	if r != nil && r.MemoryUsedMib != nil {
		mem = render.Size(r.GetMemoryUsedMib()) + "/" + mem
	}
	t.Text(mem)
	unit := func(set bool, v int64, unit string) {
		if !set {
			t.Text("-")
			return
		}
		t.Text(strconv.FormatInt(v, 10) + unit)
	}
	unit(r != nil && r.UtilisationPct != nil, int64(r.GetUtilisationPct()), "%")
	unit(r != nil && r.TemperatureC != nil, int64(r.GetTemperatureC()), "C")
	unit(r != nil && r.PowerW != nil, int64(r.GetPowerW()), "W")
	style, health := gpuHealth(g, r)
	if slices.Contains(n.GetGpusBusyOutside(), g.GetUuid()) && !g.GetUnhealthy() {
		style, health = render.Yellow, "busy outside"
		if r != nil && len(r.GetProcesses()) > 0 {
			health += ": pid " + pids(r)
		}
	}
	t.Styled(style, health)
	var jobs []uint64
	shared := int64(0)
	for _, h := range holders {
		jobs = append(jobs, h.GetJobId())
		shared += h.GetVramMib()
	}
	share := ""
	if shared > 0 {
		share = render.Size(shared) + "/" + render.Size(g.GetMemoryMib())
	}
	t.Text(share)
	t.Text(cmp.Or(gres.FormatJobIDs(jobs), "-"))
}

// pids are the processes on a GPU, at most three of them.
func pids(r *fettlev1.GPUReading) string {
	var out []string
	for i, p := range r.GetProcesses() {
		if i == 3 {
			out = append(out, "...")
			break
		}
		out = append(out, strconv.FormatUint(uint64(p.GetPid()), 10))
	}
	return strings.Join(out, ",")
}

// gpuHealth says how a GPU is, and that a declared one was never seen.
func gpuHealth(g *fettlev1.GPU, r *fettlev1.GPUReading) (render.Style, string) {
	switch {
	case g.GetUnhealthy():
		if d := g.GetHealthDetail(); d != "" {
			return render.Red, d
		}
		return render.Red, "unhealthy"
	case g.GetDeclared():
		return render.Dim, "declared"
	case r.GetEccUncorrected() > 0:
		return render.Yellow, "ok, " + render.Plural(r.GetEccUncorrected(), "ECC error")
	case len(r.GetXids()) > 0:
		return render.Yellow, "ok, XID " + strconv.FormatUint(uint64(r.GetXids()[len(r.GetXids())-1]), 10)
	}
	return render.Green, "ok"
}

// nodeFields is what -v adds.
func nodeFields(n *fettlev1.Node, now time.Time) []field {
	inv := n.GetInventory()
	iso := inv.GetIsolation()
	fs := []field{
		{"State", nodeState(n) + since(n.GetStateSinceMs(), now)},
		{"Drain reason", n.GetDrainReason()},
		{"Features", strings.Join(inv.GetFeatures(), ", ")},
		{"Switch", inv.GetSwitchName()},
		{"Address", inv.GetAddress()},
		{"Version", inv.GetVersion()},
		{"System", inv.GetOs()},
		{"Methods", strings.Join(inv.GetMethods(), ", ")},
		{"Registered", render.Time(n.GetRegisteredMs())},
		{"Last contact", render.Time(n.GetLastContactMs()) + since(n.GetLastContactMs(), now)},
		{"Boot id", n.GetBootId()},
		{"Session", strconv.FormatUint(n.GetSession(), 10)},
	}
	if f := n.GetConsecutiveLaunchFailures(); f > 0 {
		fs = append(fs, field{"Launch failures", strconv.FormatUint(uint64(f), 10) + " in a row"})
	}
	runs := "as the daemon's own user"
	if iso.GetRunsAsRoot() {
		runs = "as the job's user"
	}
	fs = append(fs, field{"Isolation", isolation(inv) + ", cgroup " + iso.GetCgroup() + ", jobs run " + runs})
	for _, m := range iso.GetMissing() {
		fs = append(fs, field{"Not enforced", m})
	}
	for _, g := range inv.GetGpus() {
		s := g.GetUuid()
		if g.GetPciBusId() != "" {
			s += ", PCI " + g.GetPciBusId()
		}
		if len(g.GetLinks()) > 0 {
			peers := make([]string, len(g.GetLinks()))
			for i, l := range g.GetLinks() {
				peers[i] = strconv.FormatUint(uint64(l.GetPeer()), 10)
			}
			s += ", NVLink to " + strings.Join(peers, ",")
		}
		if g.GetMig() != "" {
			s += ", MIG " + g.GetMig()
		}
		fs = append(fs, field{"GPU " + strconv.FormatUint(uint64(g.GetIndex()), 10), s})
	}
	return fs
}

// since is " (3 min ago)", or empty without a time.
func since(ms int64, now time.Time) string {
	if ms <= 0 {
		return ""
	}
	return " (" + render.Ago(now.Sub(time.UnixMilli(ms))) + " ago)"
}
