package command

import (
	"errors"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fettle-hpc/fettle/client/jobscript"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
	"github.com/fettle-hpc/fettle/proto/trainconfig"
)

// defaultOutput is where output goes when nothing else is asked for, in the job's directory.
const (
	defaultOutput      = "fettle-%j.out"
	defaultArrayOutput = "fettle-%A_%I.out"
)

// specBuilder makes a job's specification of a file and its merged options.
type specBuilder struct {
	env      *Env
	file     *jobscript.File
	options  []jobscript.Option
	args     []string
	warnings []string
}

func (b *specBuilder) build() (*fettlev1.JobSpec, error) {
	cwd, err := b.env.Getwd()
	if err != nil {
		return nil, errors.New("the current directory cannot be found; change to one that exists")
	}
	s := &fettlev1.JobSpec{Name: jobName(b.file), WorkDir: cwd, Args: b.args}
	export := jobscript.Export{All: true}
	for _, o := range b.options {
		if err := b.apply(s, o, cwd, &export); err != nil {
			return nil, err
		}
	}
	if err := b.gpus(s); err != nil {
		return nil, err
	}
	if err := b.payload(s, cwd); err != nil {
		return nil, err
	}
	if s.GetStdoutPath() == "" {
		s.StdoutPath = defaultOutput
		if s.GetArray() != nil {
			s.StdoutPath = defaultArrayOutput
		}
	}
	b.warnOneFile(s)
	s.Env = b.environment(export)
	if !utf8.ValidString(s.WorkDir) {
		return nil, errors.New("the current directory's name is not valid UTF-8; submit from another one or use --chdir")
	}
	if err := model.ValidateSpec(s); err != nil {
		return nil, b.locate(err)
	}
	return s, nil
}

// warnOneFile warns of an array whose elements write to one file.
func (b *specBuilder) warnOneFile(s *fettlev1.JobSpec) {
	for _, p := range []string{s.GetStdoutPath(), s.GetStderrPath()} {
		plain := strings.ReplaceAll(p, "%%", "")
		if s.GetArray() != nil && p != "" && p != "/dev/null" && !strings.Contains(plain, "%j") && !strings.Contains(plain, "%I") {
			b.warnings = append(b.warnings, "all elements of the array write to "+show(p)+"; put %I, the index, into the name")
		}
	}
}

// jobName is a job's name when none was given: the file's, without the ending of a config.
func jobName(f *jobscript.File) string {
	name := filepath.Base(f.Name)
	if f.Kind == jobscript.KindYAML {
		if ext := filepath.Ext(name); strings.EqualFold(ext, ".yaml") || strings.EqualFold(ext, ".yml") {
			name = strings.TrimSuffix(name, ext)
		}
	}
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return '_'
		}
		return r
	}, name)
	for len(name) > model.MaxName {
		_, n := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-n]
	}
	return name
}

// apply puts one option into the specification. Values were checked by package jobscript.
func (b *specBuilder) apply(s *fettlev1.JobSpec, o jobscript.Option, cwd string, export *jobscript.Export) error {
	v := o.Value
	number := func(bits int) uint32 {
		n, err := strconv.ParseUint(v, 10, bits)
		if err != nil {
			return math.MaxUint32
		}
		return uint32(n)
	}
	var err error
	switch o.Name {
	case jobscript.OptJobName:
		s.Name = v
	case jobscript.OptMethod:
		s.Method = v
	case jobscript.OptPriority:
		s.Priority = number(32)
	case jobscript.OptPartition:
		s.Partition = v
	case jobscript.OptProject:
		s.Project = v
	case jobscript.OptComment:
		s.Comment = v
	case jobscript.OptNodes:
		if v != jobscript.AnyNodes {
			s.Nodes = number(32)
		}
	case jobscript.OptCPUs:
		s.CpusPerNode = number(32)
	case jobscript.OptMem:
		s.MemMibPerNode, err = gres.ParseSize(v)
	case jobscript.OptNodelist:
		s.Nodelist, err = gres.ExpandHosts(v)
	case jobscript.OptExclude:
		s.Exclude, err = gres.ExpandHosts(v)
	case jobscript.OptDevice:
		var d gres.Devices
		if d, err = gres.ParseDevices(v); err == nil {
			s.DeviceUuids = d.UUIDs
			for _, i := range d.Indexes {
				s.DeviceIndexes = append(s.DeviceIndexes, uint32(i))
			}
		}
	case jobscript.OptTime:
		var d time.Duration
		if d, err = gres.ParseTimeLimit(v); err == nil {
			s.TimeLimitS = limitSeconds(d)
		}
	case jobscript.OptBegin:
		var at time.Time
		now := b.env.Now()
		if at, err = gres.ParseBegin(v, now, time.Local); err == nil && at.After(now) {
			s.BeginMs = at.UnixMilli()
		}
	case jobscript.OptDeadline:
		var at time.Time
		if at, err = gres.ParseBegin(v, b.env.Now(), time.Local); err == nil {
			s.DeadlineMs = at.UnixMilli()
		}
	case jobscript.OptVRAM:
		s.VramMib, err = gres.ParseSize(v)
	case jobscript.OptExclusive:
		s.Exclusive = true
	case jobscript.OptConstraint:
		s.Constraint = v
	case jobscript.OptArray:
		var a gres.Array
		if a, err = gres.ParseArray(v); err == nil {
			s.Array = &fettlev1.ArraySpec{Ranges: model.ArrayRanges(a.Ranges), MaxRunning: a.MaxRunning}
		}
	case jobscript.OptDependency:
		var d gres.Dependencies
		if d, err = gres.ParseDependencies(v); err == nil {
			s.Dependencies, s.DependencyAny = model.ToDependencies(d), d.Any
		}
	case jobscript.OptPreempt:
		s.Preempt = true
	case jobscript.OptNoPreemptible:
		s.NoPreemptible = true
	case jobscript.OptReservation:
		s.Reservation = v
	case jobscript.OptHold:
		s.Hold = v == "true"
	case jobscript.OptRequeue:
		s.NoRequeue = v == "false"
	case jobscript.OptRetries:
		n := number(32)
		s.Retries = &n
	case jobscript.OptKillGrace:
		var d time.Duration
		if d, err = gres.ParseDuration(v); err == nil {
			if s.KillGraceS = int64(d / time.Second); s.KillGraceS == 0 {
				return o.Refuse("is zero", "use at least 1s")
			}
		}
	case jobscript.OptChdir:
		s.WorkDir = v
		if !filepath.IsAbs(v) {
			s.WorkDir = filepath.Join(cwd, v)
		}
	case jobscript.OptOutput:
		s.StdoutPath = v
	case jobscript.OptError:
		s.StderrPath = v
	case jobscript.OptOpenMode:
		s.TruncateOutput = v == "truncate"
	case jobscript.OptExport:
		*export, err = jobscript.ParseExport(v)
	case jobscript.OptSet:
		key, value, _ := strings.Cut(v, "=")
		s.Set = append(s.Set, &fettlev1.KeyValue{Key: key, Value: value})
	}
	if err != nil {
		return o.Wrap(err)
	}
	return nil
}

// limitSeconds turns a time limit into seconds; "unlimited" is the longest that there is.
func limitSeconds(d time.Duration) int64 {
	if d == gres.Unlimited {
		return model.MaxTimeLimitS
	}
	return int64(d / time.Second)
}

// gpus works out the GPUs: on each node, perhaps with alternatives, or in all.
func (b *specBuilder) gpus(s *fettlev1.JobSpec) error {
	nodes, _ := jobscript.Find(b.options, jobscript.OptNodes)
	var choices []gres.GPUs
	for _, o := range b.options {
		var err error
		switch o.Name {
		case jobscript.OptGPUs:
			var want gres.GPUs
			if want, err = gres.ParseGPUs(o.Value); err != nil {
				return o.Wrap(err)
			}
			if nodes.Value == jobscript.AnyNodes {
				if len(s.GetDeviceIndexes())+len(s.GetDeviceUuids()) > 0 {
					return b.refuse(jobscript.OptDevice, "does not go with --nodes any", "say how many nodes, or leave the device out")
				}
				s.GpusTotal = &fettlev1.GPURequest{Type: want.Type, Count: uint32(want.Count)}
				return nil
			}
			if want, err = want.Split(int(max(s.GetNodes(), 1))); err == nil && want.Count > gres.MaxGPUsPerNode {
				return o.Refuse("is more than "+strconv.Itoa(gres.MaxGPUsPerNode)+" on one node", "say over how many with --nodes, or --nodes any")
			}
			choices = []gres.GPUs{want}
		case jobscript.OptGRES:
			choices, err = gres.ParseGRESList(o.Value)
		}
		if err != nil {
			return o.Wrap(err)
		}
	}
	if nodes.Value == jobscript.AnyNodes {
		return nodes.Refuse("goes with GPUs of the whole job", "say how many with --gpus")
	}
	if len(choices) == 0 || choices[0].Count == 0 {
		choices = []gres.GPUs{{Count: len(s.GetDeviceIndexes()) + len(s.GetDeviceUuids())}}
		if choices[0].Count == 0 && s.GetVramMib() > 0 {
			choices[0].Count = 1
		}
	}
	for i, g := range choices {
		r := &fettlev1.GPURequest{Type: g.Type, Count: uint32(g.Count)}
		switch {
		case g.Count == 0:
		case i == 0:
			s.GpusPerNode = r
		default:
			s.GpuAlternatives = append(s.GpuAlternatives, r)
		}
	}
	return nil
}

// payload puts the file into the specification and settles the method.
func (b *specBuilder) payload(s *fettlev1.JobSpec, cwd string) error {
	if b.file.Kind == jobscript.KindScript {
		if len(s.GetSet()) > 0 {
			return b.refuse(jobscript.OptSet, "overrides keys of a training config, but "+show(b.file.Name)+" is a script", "pass arguments to the script instead")
		}
		if s.GetMethod() != "" && s.GetMethod() != model.MethodScript {
			return b.refuse(jobscript.OptMethod, "needs a training config, but "+show(b.file.Name)+" is a script", "leave the method out, or submit a CONFIG.yaml")
		}
		s.Method, s.Script = model.MethodScript, b.file.Data
		return nil
	}
	if s.GetMethod() == model.MethodScript {
		return b.refuse(jobscript.OptMethod, "runs a script, but "+show(b.file.Name)+" is a training config", "leave the method out")
	}
	s.Config = b.file.Data
	if b.file.Name != "stdin" {
		s.ConfigPath = b.file.Name
		if !filepath.IsAbs(s.ConfigPath) {
			s.ConfigPath = filepath.Join(cwd, s.ConfigPath)
		}
	}
	if s.GetMethod() == "" {
		method, err := trainconfig.Method(b.file.Data, s.GetSet())
		if err != nil {
			return &fileError{b.file.Name, err}
		}
		s.Method = method
	}
	return nil
}

// refuse refuses the option called name where it was written.
func (b *specBuilder) refuse(name, problem, remedy string) error {
	if o, ok := jobscript.Find(b.options, name); ok {
		return o.Refuse(problem, remedy)
	}
	return usagef("--"+name+": "+problem, remedy)
}

// locate says where the option that a check refused was written.
func (b *specBuilder) locate(e *model.FieldError) error {
	name := e.Field
	if name == "gpus" {
		if _, ok := jobscript.Find(b.options, jobscript.OptGPUs); !ok {
			name = jobscript.OptGRES
		}
	}
	if o, ok := jobscript.Find(b.options, name); ok && o.Name != jobscript.OptSet && o.Name != jobscript.OptExport {
		return o.Refuse(strings.TrimPrefix(e.Problem, gres.Quote(o.Value)+" "), e.Remedy)
	}
	if e.Field == "script" || e.Field == "config" {
		return &fileError{b.file.Name, errors.New(strings.TrimPrefix(e.Error(), e.Field+": "))}
	}
	return e
}

// fileError is an error about a file's contents.
type fileError struct {
	name string
	err  error
}

func (e *fileError) Error() string {
	var t *trainconfig.Error
	if errors.As(e.err, &t) && t.Line > 0 {
		at := *t
		at.Line = 0
		return show(e.name) + ":" + strconv.Itoa(t.Line) + ": " + at.Error()
	}
	return show(e.name) + ": " + e.err.Error()
}
func (e *fileError) Unwrap() error { return e.err }
