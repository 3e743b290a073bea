package jobscript

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// lines parses a script with the given directive lines from line 2 on.
func lines(text string) (*File, error) {
	return Parse("j.sh", []byte("#!/bin/sh\n"+text+"\nhostname\n"))
}

func TestDirectives(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		// Ways to give a value.
		"#SBATCH --time=90":        "#SBATCH:time=90@2",
		"#SBATCH --time 90":        "#SBATCH:time=90@2",
		"#SBATCH -t90":             "#SBATCH:time=90@2",
		"#SBATCH -t 90":            "#SBATCH:time=90@2",
		"#SBATCH\t-t\t90\t-N 2":    "#SBATCH:time=90@2 #SBATCH:nodes=2@2",
		"#SBATCH -J a # -J b":      "#SBATCH:job-name=a@2",
		"#SBATCH -J a#b":           "#SBATCH:job-name=a#b@2",
		`#SBATCH -J "a \"b\" c"`:   `#SBATCH:job-name=a "b" c@2`,
		`#SBATCH -J 'a "b" c'`:     `#SBATCH:job-name=a "b" c@2`,
		`#SBATCH -J a\ b`:          "#SBATCH:job-name=a b@2",
		`#SBATCH --job-name="a b"`: "#SBATCH:job-name=a b@2",
		"#FETTLE -J -x":            "#FETTLE:job-name=-x@2",
		"#SBATCH":                  "",
		"#SBATCH # nothing":        "",
		// Slurm's names and values.
		"#SBATCH --account=nlp":              "#SBATCH:project=nlp@2",
		"#SBATCH -A nlp":                     "#SBATCH:project=nlp@2",
		"#SBATCH --cpus-per-task=8 -c 9":     "#SBATCH:cpus=8@2 #SBATCH:cpus=9@2",
		"#SBATCH --gpus=h100:8 -G4":          "#SBATCH:gpus=h100:8@2 #SBATCH:gpus=4@2",
		"#SBATCH --gpus-per-node=H100:4":     "#SBATCH:gres=gpu:h100:4@2",
		"#SBATCH --gres=gpu:a100:2":          "#SBATCH:gres=gpu:a100:2@2",
		"#SBATCH --gres=gpu":                 "#SBATCH:gres=gpu:1@2",
		"#SBATCH --gres=none":                "#SBATCH:gres=none@2",
		"#SBATCH --nodes=2-2":                "#SBATCH:nodes=2@2",
		"#SBATCH --mem=20480":                "#SBATCH:mem=20480@2",
		"#SBATCH --begin=now+1hour --hold":   "#SBATCH:begin=now+1hour@2 #SBATCH:hold=true@2",
		"#SBATCH --requeue --no-requeue":     "#SBATCH:requeue=true@2 #SBATCH:requeue=false@2",
		"#SBATCH -w n[1-2] -x n3":            "#SBATCH:nodelist=n[1-2]@2 #SBATCH:exclude=n3@2",
		"#SBATCH -D /data -o %x-%j.out":      "#SBATCH:chdir=/data@2 #SBATCH:output=%x-%j.out@2",
		"#SBATCH -o %A_%a.out -e %%A":        "#SBATCH:output=%A_%I.out@2 #SBATCH:error=%%A@2",
		"#SBATCH --open-mode=append":         "#SBATCH:open-mode=append@2",
		"#SBATCH --export=ALL,A=b":           "#SBATCH:export=ALL,A=b@2",
		"#SBATCH --comment='a b'":            "#SBATCH:comment=a b@2",
		"#SBATCH --ntasks=1 -n 1":            "",
		"#SBATCH --ntasks-per-node=1 -N 2":   "#SBATCH:nodes=2@2",
		"#SBATCH --mail-type=NONE":           "",
		"#FETTLE --output=a%a.log":           "#FETTLE:output=a%a.log@2",
		"#FETTLE --device cuda:0,1":          "#FETTLE:device=cuda:0,1@2",
		"#FETTLE --method QLoRA --retries 0": "#FETTLE:method=qlora@2 #FETTLE:retries=0@2",
		"#FETTLE --kill-grace 45s":           "#FETTLE:kill-grace=45s@2",
		"#FETTLE --account nlp":              "#FETTLE:project=nlp@2",
		"#FETTLE --priority 010":             "#FETTLE:priority=10@2",
		"#FETTLE --set a.b=c=d":              "#FETTLE:set=a.b=c=d@2",
		"#FETTLE --set a=":                   "#FETTLE:set=a=@2",
	} {
		f, err := lines(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := flat(f.Options); got != want || len(f.Warnings) > 0 {
			t.Errorf("%s\n got %s %q\nwant %s", in, got, f.Warnings, want)
		}
	}
}

// TestBadDirectives pins the line for every kind of mistake in a directive.
func TestBadDirectives(t *testing.T) {
	t.Parallel()
	const tasks = "; a job runs once on each node: use --nodes, --gpus-per-node and --cpus-per-task, and start the ranks in the script, for example with torchrun"
	const shape = "; options look like --time=1:00:00 or -t 1:00:00"
	const useLong = "; use a whole number of CPU cores"
	for _, c := range []struct{ in, want string }{
		// Slurm's options that fettle has not: each by name.
		{"#SBATCH --array=0-9%", `#SBATCH --array "0-9%": the limit "" is not a number; use elements such as 0-99%4 or 1,3,5-9:2`},
		{"#SBATCH -a 1-4294967295", `#SBATCH -a "1-4294967295": "1-4294967295" is above 999999; use elements such as 0-99%4 or 1,3,5-9:2`},
		{"#SBATCH --kill-on-invalid-dep=no", `#SBATCH --kill-on-invalid-dep "no": only yes is supported; a job whose dependency can never be met is cancelled; leave it out`},
		{"#SBATCH --qos=high", "#SBATCH --qos: is not supported; use --priority and --partition"},
		{"#SBATCH -q high", "#SBATCH -q: is not supported; use --priority and --partition"},
		{"#FETTLE --qos high", "#FETTLE --qos: is not supported; use --priority and --partition"},
		{"#SBATCH --exclusive=user", `#SBATCH --exclusive: takes no value; remove "user"`},
		{"#SBATCH --constraint='a100&'", `#SBATCH --constraint "a100&": ends where a feature is wanted; join features with & and |, negate with !, group with (), for example ib&(h100|h200)`},
		{"#SBATCH --licenses=x", "#SBATCH --licenses: is not supported; ask an admin for a partition that has it, and use --partition"},
		{"#SBATCH --mail-type=END", `#SBATCH --mail-type "END": only none is supported; follow the job with fsubmit --wait or fqueue --watch`},
		{"#SBATCH --mail-user=a@b.c", "#SBATCH --mail-user: is not supported; follow the job with fsubmit --wait or fqueue --watch"},
		{"#SBATCH --nice", "#SBATCH --nice: is not supported; use #FETTLE --priority 1 (most urgent) to 10"},
		{"#SBATCH --nice=100", "#SBATCH --nice: is not supported; use #FETTLE --priority 1 (most urgent) to 10"},
		{"#SBATCH --priority=100", "#SBATCH --priority: is not supported; Slurm's numbers mean something else; use #FETTLE --priority 1 (most urgent) to 10"},
		{"#SBATCH --ntasks=8", `#SBATCH --ntasks "8": only 1 is supported` + tasks},
		{"#SBATCH -n 8", `#SBATCH -n "8": only 1 is supported` + tasks},
		{"#SBATCH --ntasks-per-node=4", `#SBATCH --ntasks-per-node "4": only 1 is supported` + tasks},
		{"#SBATCH --mem-per-cpu=4G", "#SBATCH --mem-per-cpu: is not supported; use --mem, the host memory on each node"},
		{"#SBATCH --signal=B:USR1@120", "#SBATCH --signal: is not supported; trap TERM in the script and set the time before KILL with #FETTLE --kill-grace"},
		{"#SBATCH --wait", "#SBATCH --wait: does not belong in a file; give it on the command line"},
		{"#FETTLE --dry-run", "#FETTLE --dry-run: does not belong in a file; give it on the command line"},
		{"#SBATCH --vram=20G", "#SBATCH --vram: is not supported; it is fettle's own: write #FETTLE --vram"},
		{"#SBATCH --preempt", "#SBATCH --preempt: is not supported; it is fettle's own: write #FETTLE --preempt"},
		{"#SBATCH --retries=3", "#SBATCH --retries: is not supported; it is fettle's own: write #FETTLE --retries"},
		{"#SBATCH hetjob", "#SBATCH hetjob: is not supported; submit one job for each part"},
		// Typing errors.
		{"#SBATCH --tme=5", "#SBATCH --tme: is not an option of sbatch; did you mean --time?"},
		{"#SBATCH --job_name=a", "#SBATCH --job_name: is not an option of sbatch; did you mean --job-name?"},
		{"#SBATCH --ntask-per-node=4", "#SBATCH --ntask-per-node: is not an option of sbatch; did you mean --ntasks-per-node?"},
		{"#SBATCH --part=gpu", "#SBATCH --part: is not an option of sbatch; did you mean --partition?"},
		{"#FETTLE --prioirty 1", "#FETTLE --prioirty: is not an option of fsubmit; did you mean --priority?"},
		{"#FETTLE --flubber 1", "#FETTLE --flubber: is not an option of fsubmit; see fsubmit --help"},
		{"#FETTLE -Z 1", "#FETTLE -Z: is not an option of fsubmit; see fsubmit --help"},
		// Shape.
		{"#FETTLE priority=1", `#FETTLE word "priority=1": is not an option` + shape},
		{"#FETTLE --", `#FETTLE word "--": is not an option` + shape},
		{"#FETTLE -", `#FETTLE word "-": is not an option` + shape},
		{"#FETTLE -5", `#FETTLE word "-5": is not an option` + shape},
		{"#FETTLE -\x1b=\\\\", `#FETTLE word "-\x1b=\\": is not an option` + shape},
		{"#FETTLE --\x1b", `#FETTLE --\x1b: is not an option of fsubmit; see fsubmit --help`},
		{"#FETTLE --=5", `#FETTLE word "--=5": is not an option` + shape},
		{"#SBATCH –-time=5", `#SBATCH word "–-time=5": starts with a typographic dash; type - or -- instead`},
		{"#SBATCH —time=5", `#SBATCH word "—time=5": starts with a typographic dash; type - or -- instead`},
		{"#SBATCH -p=gpu", `#SBATCH word "-p=gpu": mixes the two ways to give a value; write -p gpu`},
		{"#SBATCH --time", "#SBATCH --time: needs a value; write --time=TIME"},
		{"#SBATCH -t", "#SBATCH -t: needs a value; write -t TIME"},
		{"#SBATCH --time --hold", "#SBATCH --time: needs a value; write --time=TIME"},
		{"#SBATCH --hold=yes", `#SBATCH --hold: takes no value; remove "yes"`},
		{`#SBATCH --job-name="a b`, `#SBATCH line: has a " without its partner; quote as in a shell`},
		{`#SBATCH --job-name='a b`, "#SBATCH line: has a ' without its partner; quote as in a shell"},
		{`#SBATCH --job-name=a\`, "#SBATCH line: ends in a backslash; quote as in a shell"},
		// Values.
		{"#SBATCH --time=5x", `#SBATCH --time "5x": unknown unit "x"; use minutes, HH:MM:SS, D-HH:MM:SS or 90m`},
		{"#SBATCH --time=0", `#SBATCH --time "0": is zero; use UNLIMITED for the longest possible, or minutes, HH:MM:SS, D-HH:MM:SS or 90m`},
		{"#SBATCH --nodes=0", `#SBATCH --nodes "0": is below 1; use a number of nodes from 1 to 1024`},
		{"#SBATCH --nodes=-1", `#SBATCH --nodes "-1": is below 1; use a number of nodes from 1 to 1024`},
		{"#SBATCH --nodes=1-4", `#SBATCH --nodes "1-4": is a range; say one number, or any with --gpus: a job gets all of its nodes or none`},
		{"#SBATCH --nodes=2000", `#SBATCH --nodes "2000": is above 1024; use a number of nodes from 1 to 1024`},
		{"#SBATCH --nodes=99999999999999999999", `#SBATCH --nodes "99999999999999999999": is out of range; use a number of nodes from 1 to 1024`},
		{"#SBATCH --gpus=0", `#SBATCH --gpus "0": the count is zero; leave the option out for a job without GPUs`},
		{"#SBATCH --gpus=1.5", `#SBATCH --gpus "1.5": the count "1.5" is not a whole number; use N or TYPE:N, for example 4 or h100:4`},
		{"#SBATCH --gres=gpu:2,shard:1", `#SBATCH --gres "gpu:2,shard:1": unknown resource "shard"; gpu is the only generic resource; use gpu:N or gpu:TYPE:N, for example gpu:4 or gpu:h100:4`},
		{"#SBATCH --mem=0", `#SBATCH --mem "0": is zero; say how much memory, for example 64G, or leave it out`},
		{"#SBATCH --mem=1000000000000000000T", `#SBATCH --mem "1000000000000000000T": is larger than 1 EiB; use a number with K, M, G or T, for example 20G, 512M or 1.5T`},
		{"#SBATCH -c two", `#SBATCH -c "two": is not a whole number` + useLong},
		{"#SBATCH -c 1.5", `#SBATCH -c "1.5": is not a whole number` + useLong},
		{"#SBATCH -w n[1-999999999]", `#SBATCH -w "n[1-999999999]": names more than 65536 nodes; use names such as n1,n[2-4],gpu[01-16]`},
		{"#SBATCH -p a,b", `#SBATCH -p "a,b": names several partitions; name one`},
		{"#SBATCH -p 'a b'", `#SBATCH -p "a b": may not hold " "; use the partition's name: letters, digits, dots, dashes and underscores`},
		{"#SBATCH -p ../x", `#SBATCH -p "../x": may not start with "."; use the partition's name: letters, digits, dots, dashes and underscores`},
		{"#SBATCH -A " + strings.Repeat("a", 65), `#SBATCH -A "` + strings.Repeat("a", 64) + `"...: is longer than 64 bytes; shorten it`},
		{"#SBATCH -c 5000", `#SBATCH -c "5000": is above 4096` + useLong},
		{"#SBATCH --gpus-per-node=65", `#SBATCH --gpus-per-node "65": more than 64 GPUs per node; use N or TYPE:N, for example 4 or h100:4`},
		{"#SBATCH --job-name=", `#SBATCH --job-name "": is empty; give a value or leave the option out`},
		{"#SBATCH -J a\x1b[31m", `#SBATCH -J "a\x1b[31m": holds a control character; remove it`},
		{"#SBATCH -J \xff", `#SBATCH -J "\xff": is not valid UTF-8; write it in UTF-8`},
		{"#SBATCH -J " + strings.Repeat("a", 129), `#SBATCH -J "` + strings.Repeat("a", 64) + `"...: is longer than 128 bytes; shorten it`},
		{"#SBATCH -o %q.out", `#SBATCH -o "%q.out": has an unknown pattern "%q"; use %j (job), %a (attempt), %A (array), %I (index in it), %x (name), %N (first node), %u (user) or %%`},
		{"#SBATCH -o out%", `#SBATCH -o "out%": ends in a lone %; write %% for a percent sign`},
		{"#SBATCH --open-mode=w", `#SBATCH --open-mode "w": is neither append nor truncate; use one of them`},
		{"#SBATCH --export=1A=b", `#SBATCH --export "1A=b": has a bad variable name "1A"; use ALL, NONE or a list such as ALL,WANDB_MODE=offline,HF_HOME`},
		{"#FETTLE --priority 0", `#FETTLE --priority "0": is below 1; use 1 (most urgent) to 10`},
		{"#FETTLE --priority 11", `#FETTLE --priority "11": is above 10; use 1 (most urgent) to 10`},
		{"#FETTLE --priority high", `#FETTLE --priority "high": is not a whole number; use 1 (most urgent) to 10`},
		{"#FETTLE --retries -1", `#FETTLE --retries "-1": is below 0; use 0 to 100`},
		{"#FETTLE --device cuda:x", `#FETTLE --device "cuda:x": "cuda:x" is neither an index nor a UUID; use cuda:0, cuda:0,1 or a GPU's UUID (GPU-...)`},
		{"#FETTLE --set lr", `#FETTLE --set "lr": has no =; use KEY=VALUE, for example learning_rate=1e-4`},
		{"#FETTLE --set =1", `#FETTLE --set "=1": has no key; use KEY=VALUE, for example learning_rate=1e-4`},
		{"#FETTLE --set 'a b=1'", `#FETTLE --set "a b=1": has a key with " "; use KEY=VALUE, for example learning_rate=1e-4`},
		{"#FETTLE --kill-grace 2h", `#FETTLE --kill-grace "2h": is longer than an hour; use at most 1h, for example 45s`},
		{"#FETTLE --kill-grace UNLIMITED", `#FETTLE --kill-grace "UNLIMITED": is longer than an hour; use at most 1h, for example 45s`},
	} {
		f, err := lines(c.in)
		if err == nil {
			t.Errorf("%s was read as %s", c.in, flat(f.Options))
			continue
		}
		printable(t, err.Error())
		if want := "j.sh:2: " + c.want; err.Error() != want {
			t.Errorf("%q\n got %s\nwant %s", c.in, err, want)
		}
	}
}

func TestEveryMistakeIsReportedOnceAndBounded(t *testing.T) {
	t.Parallel()
	_, err := lines("#SBATCH --signal 1-2 --time=5x --qos high -N 1\n#SBATCH --tme 5 --wibble wobble --hold")
	var list Errors
	if !errors.As(err, &list) {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.Option)
	}
	if want := []string{"--signal", "--time", "--qos", "--tme", "--wibble"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	_, err = lines(strings.Repeat("#SBATCH --signal 1\n", 5000))
	if !errors.As(err, &list) || len(list) != maxErrors {
		t.Errorf("%d errors", len(list))
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"# SBATCH --time=5":      `j.sh:2: looks like a directive but is a plain comment; start the line with "#SBATCH "`,
		"#sbatch -t 5":           `j.sh:2: looks like a directive but is a plain comment; start the line with "#SBATCH "`,
		"  #SBATCH --time=5":     `j.sh:2: looks like a directive but is a plain comment; start the line with "#SBATCH "`,
		"#SBTACH --time=5":       `j.sh:2: looks like a directive but is a plain comment; start the line with "#SBATCH "`,
		"#SBATCH: --time=5":      `j.sh:2: looks like a directive but is a plain comment; start the line with "#SBATCH "`,
		"#FETLE --hold":          `j.sh:2: looks like a directive but is a plain comment; start the line with "#FETTLE "`,
		"#FETTLE--hold":          `j.sh:2: looks like a directive but is a plain comment; start the line with "#FETTLE "`,
		"#PBS -l walltime=1":     "j.sh:2: #PBS directives are not read; write them as #FETTLE or #SBATCH",
		"#SBATCH -o $HOME/a.log": `j.sh:2: "$HOME/a.log" is taken literally: $ and ~ are not expanded in #SBATCH`,
		"#FETTLE -D ~/runs":      `j.sh:2: "~/runs" is taken literally: $ and ~ are not expanded in #FETTLE`,
		"##SBATCH --time=5":      "",
		"## SBATCH --time=5":     "",
		"# SBATCH is a system":   "",
		"#SBATCHES":              "",
		"# kettle - on":          "",
		"cat <<X\n# SBATCH -t 1": "",
		"true\n#SBATCH":          "",
		"true\n#SBATCH of old":   "",
		"true\n#SBATCH -t 5":     "j.sh:3: #SBATCH is ignored after the first command; move it to the top",
	} {
		f, err := lines(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if got := strings.Join(f.Warnings, "|"); got != want {
			t.Errorf("%q\n got %s\nwant %s", in, got, want)
		}
	}
	f, err := lines("true\n" + strings.Repeat("#SBATCH -t 5\n", 1000))
	if err != nil || len(f.Warnings) != maxWarnings+1 || f.Warnings[maxWarnings] != "j.sh: 990 more warnings" {
		t.Errorf("%d warnings, %v", len(f.Warnings), err)
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		"":                    nil,
		"  a\tb  ":            {"a", "b"},
		`a"b c"d'e f'`:        {"ab cde f"},
		`"" ''`:               {"", ""},
		`"a\"b\\c\d"`:         {`a"b\c\d`},
		`'a\b'`:               {`a\b`},
		`a\#b # c`:            {"a#b"},
		`a#b`:                 {"a#b"},
		`"#" '#' # "`:         {"#", "#"},
		`--x="a # b" --y # z`: {"--x=a # b", "--y"},
		"a\r":                 {"a"},
	} {
		if got, problem := words(in); problem != "" || !slices.Equal(got, want) {
			t.Errorf("words(%q) = %q, %s", in, got, problem)
		}
	}
}
