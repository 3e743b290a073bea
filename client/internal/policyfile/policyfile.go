// Package policyfile reads and writes a cluster's policy as the TOML file that `fctl policy apply -f` takes and
// `fctl policy show` prints, and tells two policies apart line by line. It is pure.
package policyfile

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/fettle-hpc/fettle/client/internal/tomlerr"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

// MaxSize bounds a policy file in bytes.
const MaxSize = 1 << 20

// Error refuses a file or one setting in it. It renders to one line.
type Error struct {
	// Line counts from 1; 0 when it is not known.
	Line    int
	Field   string
	Problem string
	Remedy  string
}

// Error renders "line N: FIELD: PROBLEM; REMEDY" with the parts that are there.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", e.Line)
	}
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(e.Problem)
	if e.Remedy != "" {
		b.WriteString("; " + e.Remedy)
	}
	return b.String()
}

type file struct {
	Version    *uint64        `toml:"version"`
	Partition  []partition    `toml:"partition"`
	Project    []project      `toml:"project"`
	User       []user         `toml:"user"`
	Usage      usage          `toml:"usage"`
	Scheduling map[string]any `toml:"scheduling"`
}

type partition struct {
	Name        string `toml:"name"`
	Nodes       string `toml:"nodes"`
	Default     bool   `toml:"default"`
	DefaultTime string `toml:"default_time"`
	MaxTime     string `toml:"max_time"`
	State       string `toml:"state"`
	preemption
	limits
}

// Parse reads a policy. Unknown keys, bad names, times and node lists, and partitions given twice are refused with an
// *Error. The policy's version is the one that the file names, 0 when it names none.
func Parse(data []byte) (*fettlev1.ClusterPolicy, error) {
	if len(data) > MaxSize {
		return nil, &Error{Problem: "is larger than 1 MiB", Remedy: "it should hold a few settings only"}
	}
	var f file
	dec := toml.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return nil, syntax(err)
	}
	p := &fettlev1.ClusterPolicy{}
	if f.Version != nil {
		p.Version = *f.Version
	}
	if len(f.Partition) > model.MaxPartitions {
		return nil, &Error{Field: "partition", Problem: fmt.Sprintf("there are more than %d", model.MaxPartitions), Remedy: "define fewer"}
	}
	defaults := 0
	for _, in := range f.Partition {
		out, err := in.parse()
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(p.Partitions, func(x *fettlev1.Partition) bool { return x.GetName() == out.GetName() }) {
			return nil, &Error{Field: "partition " + gres.Quote(in.Name), Problem: "is defined twice", Remedy: "give each a name of its own"}
		}
		if out.GetIsDefault() {
			defaults++
		}
		p.Partitions = append(p.Partitions, out)
	}
	if defaults > 1 {
		return nil, &Error{Field: "partition", Problem: "several are the default", Remedy: "set default = true in one of them"}
	}
	var err error
	if p.Scheduling, err = settings(f.Scheduling); err != nil {
		return nil, err
	}
	return p, f.tenancy(p)
}

func syntax(err error) error {
	f := tomlerr.Of(err)
	if f.Unknown {
		return &Error{Line: f.Line, Problem: "unknown key " + gres.Quote(f.Key),
			Remedy: knownKeys(f.Key)}
	}
	return &Error{Line: f.Line, Field: f.Key, Problem: f.Problem, Remedy: "mend the line"}
}

func (in partition) parse() (*fettlev1.Partition, error) {
	where := "partition " + gres.Quote(in.Name)
	if in.Name == "" {
		return nil, &Error{Field: "partition", Problem: "one has no name", Remedy: "add name = \"...\""}
	}
	if len(in.Name) > model.MaxPartition || strings.ContainsFunc(in.Name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_')
	}) {
		return nil, &Error{Field: where, Problem: "the name is not allowed", Remedy: "use up to 64 letters, digits, dots, dashes and underscores"}
	}
	out := &fettlev1.Partition{Name: in.Name, Nodes: in.Nodes, IsDefault: in.Default}
	if in.Nodes != "" {
		names, err := gres.ExpandHosts(in.Nodes)
		if err != nil {
			return nil, &Error{Field: where, Problem: gres.Rename(err, "nodes").Error()}
		}
		out.Nodes = gres.FormatHosts(names)
	}
	var err error
	if out.DefaultTimeS, err = seconds(where, "default_time", in.DefaultTime); err != nil {
		return nil, err
	}
	if out.MaxTimeS, err = seconds(where, "max_time", in.MaxTime); err != nil {
		return nil, err
	}
	if out.MaxTimeS > 0 && out.DefaultTimeS > out.MaxTimeS {
		return nil, &Error{Field: where, Problem: "default_time is longer than max_time", Remedy: "lower it"}
	}
	switch strings.ToLower(in.State) {
	case "", "up":
	case "down":
		out.Down = true
	default:
		return nil, &Error{Field: where, Problem: "state " + gres.Quote(in.State) + " is neither up nor down", Remedy: "use one of them"}
	}
	if err := in.preemption.parse(where, out); err != nil {
		return nil, err
	}
	out.Limits, err = in.limits.parse(where, "")
	return out, err
}

// seconds reads a time; empty and "unlimited" are 0.
func seconds(where, field, v string) (int64, error) {
	if v == "" {
		return 0, nil
	}
	d, err := gres.ParseTimeLimit(v)
	if err != nil {
		return 0, &Error{Field: where, Problem: gres.Rename(err, field).Error()}
	}
	if d == gres.Unlimited {
		return 0, nil
	}
	return int64(d / time.Second), nil
}

// flat writes tables within a table with dots: what TOML reads of partition.h100 = "2h" becomes the key "partition.h100".
func flat(table map[string]any) map[string]any {
	out := make(map[string]any, len(table))
	for k, v := range table {
		inner, ok := v.(map[string]any)
		if !ok {
			out[k] = v
			continue
		}
		for name, v := range flat(inner) {
			out[k+"."+name] = v
		}
	}
	return out
}

// settings turns the [scheduling] table into keys and values, in alphabetical order.
func settings(table map[string]any) ([]*fettlev1.KeyValue, error) {
	table = flat(table)
	if len(table) > model.MaxPolicyKeys {
		return nil, &Error{Field: "scheduling", Problem: fmt.Sprintf("there are more than %d keys", model.MaxPolicyKeys), Remedy: "set fewer"}
	}
	keys := make([]string, 0, len(table))
	for k := range table {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var out []*fettlev1.KeyValue
	for _, k := range keys {
		kv := &fettlev1.KeyValue{Key: k}
		switch v := table[k].(type) {
		case string:
			kv.Value = v
		case int64:
			kv.Value = strconv.FormatInt(v, 10)
		case float64:
			kv.Value = strconv.FormatFloat(v, 'f', -1, 64)
		case bool:
			kv.Value = strconv.FormatBool(v)
		default:
			return nil, &Error{Field: "scheduling." + k, Problem: "is not a text, a number or true or false", Remedy: "write for example age = 10"}
		}
		out = append(out, kv)
	}
	return out, nil
}

// Format writes a policy as TOML that Parse reads back, with the version as a comment.
func Format(p *fettlev1.ClusterPolicy) string {
	var b strings.Builder
	for _, part := range p.GetPartitions() {
		b.WriteString("[[partition]]\n")
		b.WriteString("name = " + quote(part.GetName()) + "\n")
		if part.GetNodes() != "" {
			b.WriteString("nodes = " + quote(part.GetNodes()) + "\n")
		}
		if part.GetIsDefault() {
			b.WriteString("default = true\n")
		}
		if s := part.GetDefaultTimeS(); s > 0 {
			b.WriteString("default_time = " + quote(gres.FormatDuration(time.Duration(s)*time.Second)) + "\n")
		}
		if s := part.GetMaxTimeS(); s > 0 {
			b.WriteString("max_time = " + quote(gres.FormatDuration(time.Duration(s)*time.Second)) + "\n")
		}
		if part.GetDown() {
			b.WriteString("state = \"down\"\n")
		}
		putPreemption(&b, part)
		putLimits(&b, part.GetLimits())
		b.WriteString("\n")
	}
	b.WriteString(formatTenancy(p))
	if len(p.GetScheduling()) > 0 {
		b.WriteString("[scheduling]\n")
		for _, kv := range p.GetScheduling() {
			b.WriteString(key(kv.GetKey()) + " = " + value(kv.GetValue()) + "\n")
		}
	}
	return b.String()
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func key(k string) string {
	for i := 0; i < len(k); i++ {
		c := k[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return quote(k)
		}
	}
	if k == "" {
		return quote(k)
	}
	return k
}

// value writes whole numbers bare, as people write them, when they read back the same.
func value(v string) string {
	if n, err := strconv.ParseInt(v, 10, 64); err == nil && strconv.FormatInt(n, 10) == v {
		return v
	}
	return quote(v)
}

// Diff lists the lines by which two policies differ, with "-" before those of the first and "+" before those of the
// second; lines that both have are left out but for the names of partitions that hold a change.
func Diff(from, to *fettlev1.ClusterPolicy) []string {
	var out []string
	names := func(p *fettlev1.ClusterPolicy) (list []string) {
		for _, x := range p.GetPartitions() {
			list = append(list, x.GetName())
		}
		return list
	}
	find := func(p *fettlev1.ClusterPolicy, name string) *fettlev1.Partition {
		for _, x := range p.GetPartitions() {
			if x.GetName() == name {
				return x
			}
		}
		return nil
	}
	all := names(from)
	for _, n := range names(to) {
		if !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	for _, n := range all {
		a, b := lines(find(from, n)), lines(find(to, n))
		if slices.Equal(a, b) && (find(from, n) == nil) == (find(to, n) == nil) {
			continue
		}
		mark := "  "
		switch {
		case find(from, n) == nil:
			mark = "+ "
		case find(to, n) == nil:
			mark = "- "
		}
		out = append(out, mark+"partition "+quote(n))
		out = append(out, changes(a, b)...)
	}
	if a, b := names(from), names(to); len(out) == 0 && !slices.Equal(a, b) {
		out = append(out, "- order of partitions: "+strings.Join(a, ", "), "+ order of partitions: "+strings.Join(b, ", "))
	}
	out = append(out, diffTenancy(from, to)...)
	a, b := schedulingLines(from), schedulingLines(to)
	if !slices.Equal(a, b) {
		out = append(out, "  scheduling")
		out = append(out, changes(a, b)...)
	}
	return out
}

// lines are a partition's settings, one a line, without its name.
func lines(p *fettlev1.Partition) []string {
	if p == nil {
		return nil
	}
	text := Format(&fettlev1.ClusterPolicy{Partitions: []*fettlev1.Partition{p}})
	return strings.Split(strings.TrimSpace(text), "\n")[2:]
}

func schedulingLines(p *fettlev1.ClusterPolicy) []string {
	text := strings.TrimSpace(Format(&fettlev1.ClusterPolicy{Scheduling: p.GetScheduling()}))
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")[1:]
}

// changes lists lines of a that b lacks, then those of b that a lacks.
func changes(a, b []string) []string {
	var out []string
	for _, l := range a {
		if !slices.Contains(b, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			out = append(out, "+ "+l)
		}
	}
	return out
}
