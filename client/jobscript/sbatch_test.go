package jobscript

import (
	"strings"
	"testing"
)

// sbatchOptions is the long and short names that sbatch of Slurm 26.05 reads, and the older ones still met in scripts.
const sbatchOptions = `account:A acctg-freq array:a autocomplete batch bb bbf begin:b chdir:D cluster cluster-constraint
clusters:M comment consolidate-segments constraint:C container container-id context contiguous core-spec:S
cores-per-socket cpu-freq cpus-per-gpu cpus-per-task:c deadline delay-boot dependency:d distribution:m error:e exclude:x
exclusive export export-file external extra extra-node-info:B get-user-env gid gpu-bind gpu-freq gpus:G gpus-per-node
gpus-per-socket gpus-per-task gres gres-flags help:h hint hold:H ignore-pbs input:i job-name:J kill-on-invalid-dep
licenses:L mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mem-update mincpus network nice no-kill:k
no-requeue nodefile:F nodelist:w nodes:N ntasks:n ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket
ntasks-per-tres oom-kill-step open-mode output:o overcommit:O oversubscribe:s parsable partition:p prefer priority
profile propagate qos:q quiet:Q reboot requeue reservation resources resv-ports runtime segment signal sockets-per-node
spread-job spread-segments stepmgr switches tasks-per-node test-only thread-spec threads-per-core time:t time-min tmp
tres-bind tres-per-task uid usage use-min-nodes verbose:v version:V wait:W wait-all-nodes wckey workdir power share wrap`

// mapped is what fettle has for a value, by sbatch's name.
var mapped = map[string]string{
	"account": "nlp", "array": "0-9%2", "begin": "now", "chdir": "/x", "comment": "x", "constraint": "ib", "cpus-per-task": "2", "deadline": "now+1h",
	"dependency": "afterok:1:2,singleton", "exclusive": "", "reservation": "r1", "error": "x", "exclude": "n1",
	"export": "ALL", "gpus": "1", "gpus-per-node": "1", "gres": "gpu:1", "hold": "", "job-name": "x", "mem": "1G",
	"no-requeue": "", "nodelist": "n1", "nodes": "1", "open-mode": "append", "output": "x", "partition": "x",
	"requeue": "", "time": "1",
}

func TestEverySbatchOptionIsMappedOrRefusedByName(t *testing.T) {
	t.Parallel()
	count := 0
	for entry := range strings.FieldsSeq(sbatchOptions) {
		long, short, _ := strings.Cut(entry, ":")
		names := []string{long}
		if short != "" {
			names = append(names, short)
		}
		count++
		for _, name := range names {
			value, ok := mapped[long]
			if !ok {
				value = "1234"
			}
			o, taken, err := NewOption(OriginSBATCH, name, value)
			switch {
			case ok && (err != nil || !taken):
				t.Errorf("%s is not mapped: %v", name, err)
			case ok && o.Origin != OriginSBATCH:
				t.Errorf("%s: %+v", name, o)
			case !ok && err == nil:
				t.Errorf("%s is accepted as %+v", name, o)
			case !ok && strings.Contains(err.Error(), "is not an option"):
				t.Errorf("%s is not known: %v", name, err)
			case !ok:
				printable(t, err.Error())
				if e := err.(*Error); e.Remedy == "" || !strings.Contains(err.Error(), name) {
					t.Errorf("%s: no name or remedy: %v", name, err)
				}
			}
		}
	}
	if want := len(foreigns) + len(mapped) + 1; count != want {
		t.Errorf("the tables hold %d of sbatch's options, the list %d", want, count)
	}
}

func TestTablesHaveNoDoubles(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	note := func(name, where string) {
		if name == "" {
			return
		}
		if at, dup := seen[name]; dup {
			t.Errorf("%q is in %s and %s", name, at, where)
		}
		seen[name] = where
	}
	for _, s := range specs {
		note(s.Name, "specs")
		note(s.Short, "specs")
		if (s.check == nil) != (s.Arg == "") || (s.value == "") != (s.Arg != "") {
			t.Errorf("%s is neither a switch nor an option with a value", s.Name)
		}
		if (s.Arg == "") != isSwitch(s.name()) {
			t.Errorf("%s: isSwitch(%s) is %v", s.Name, s.name(), isSwitch(s.name()))
		}
		if s.canon != "" && byName[s.canon] == nil {
			t.Errorf("%s stands for %s, which is not an option", s.Name, s.canon)
		}
		if s.Help == "" || strings.ContainsAny(s.Help, "\n") {
			t.Errorf("%s lacks a line of help", s.Name)
		}
	}
	for _, list := range [][]foreign{foreigns, ours} {
		for _, f := range list {
			note(f.name, "foreigns")
			note(f.short, "foreigns")
			if f.remedy == "" {
				t.Errorf("%s has no remedy", f.name)
			}
		}
	}
	if len(Specs()) != len(specs) || Specs()[0].Name != OptJobName {
		t.Errorf("Specs lists %d options", len(Specs()))
	}
}

func TestNewOption(t *testing.T) {
	t.Parallel()
	o, ok, err := NewOption(OriginFlag, "gpus-per-node", "A100:2")
	if err != nil || !ok || o != (Option{Name: OptGRES, Value: "gpu:a100:2", Written: "--gpus-per-node", Origin: OriginFlag}) {
		t.Errorf("got %+v, %v, %v", o, ok, err)
	}
	if o, ok, err := NewOption(OriginFlag, "n", "1"); ok || err != nil {
		t.Errorf("-n 1: %+v, %v, %v", o, ok, err)
	}
	if o, _, err := NewOption(OriginFlag, "no-requeue", ""); err != nil || o.Name != OptRequeue || o.Value != "false" {
		t.Errorf("--no-requeue: %+v, %v", o, err)
	}
	for _, c := range []struct {
		origin            Origin
		name, value, want string
	}{
		{OriginFlag, "time", "5x", `--time "5x": unknown unit "x"; use minutes, HH:MM:SS, D-HH:MM:SS or 90m`},
		{OriginFlag, "qos", "x", "--qos: is not supported; use --priority and --partition"},
		{OriginFlag, "tiem", "5", "--tiem: is not an option of fsubmit; did you mean --time?"},
		{OriginFlag, "Z", "5", "-Z: is not an option of fsubmit; see fsubmit --help"},
		{OriginDefault, "priority", "x", `default --priority "x": is not a whole number; use 1 (most urgent) to 10`},
	} {
		if _, ok, err := NewOption(c.origin, c.name, c.value); ok || err == nil || err.Error() != c.want {
			t.Errorf("%s: %v\nwant %s", c.name, err, c.want)
		}
	}
}

func TestOptionErrorsNameThePlace(t *testing.T) {
	t.Parallel()
	f, err := lines("#SBATCH -b 2020-01-01 --no-requeue")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := Find(f.Options, OptBegin)
	if got := b.Refuse("is in the past", "use now+2h").Error(); got != `j.sh:2: #SBATCH -b "2020-01-01": is in the past; use now+2h` {
		t.Errorf("got %s", got)
	}
	r, _ := Find(f.Options, OptRequeue)
	if got := r.Refuse("clashes", "").Error(); got != "j.sh:2: #SBATCH --no-requeue: clashes" {
		t.Errorf("got %s", got)
	}
	if _, ok := Find(f.Options, OptMem); ok {
		t.Error("found an option that is not there")
	}
}

func TestSuggest(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"tiem": "time", "TIME": "time", "cpus_per_task": "cpus-per-task", "partiton": "partition", "outpt": "output",
		"job": "job-name", "gpu": "gpus", "xx": "", "x": "", "": "", "completely-different": "", strings.Repeat("t", 100): "",
	} {
		if got := suggest(OriginFlag, in); got != want {
			t.Errorf("suggest(%q) = %q, want %q", in, got, want)
		}
	}
	if got := suggest(OriginSBATCH, "depndency"); got != "dependency" {
		t.Errorf("an option that fettle lacks is not suggested: %q", got)
	}
	if got := suggest(OriginSBATCH, "projct"); got != "" {
		t.Errorf("fettle's own %q suggested for sbatch", got)
	}
}

func TestDistance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"time", "time", 0}, {"tiem", "time", 1}, {"tme", "time", 1}, {"timee", "time", 1}, {"tine", "time", 1}, {"gpu", "cpus", 2}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
