package model

import (
	"strconv"
	"strings"
	"unicode/utf8"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
)

// ValidateSpec checks everything in a specification that can be judged without the cluster: sizes, ranges, names, and
// fields that contradict each other. Zero values that NormalizeSpec fills are accepted. It answers the first thing wrong,
// nil when all is well. Nodelists hold expanded names.
func ValidateSpec(s *fettlev1.JobSpec) *FieldError {
	if s == nil {
		return invalid("spec", "is missing", "send a job specification")
	}
	for _, check := range []func(*fettlev1.JobSpec) *FieldError{
		checkNames, checkNumbers, checkResources, checkNodes, checkDevices, checkTimes, checkWishes, checkArray, checkDependencies,
		checkPaths, checkLists, checkPayload,
	} {
		if err := check(s); err != nil {
			return err
		}
	}
	return nil
}

func checkNames(s *fettlev1.JobSpec) *FieldError {
	for _, f := range []struct {
		field, value string
		limit        int
	}{
		{"name", s.GetName(), MaxName}, {"comment", s.GetComment(), MaxComment},
	} {
		if err := checkText(f.field, f.value, f.limit); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		field, value string
		limit        int
	}{
		{"method", s.GetMethod(), MaxMethod}, {"partition", s.GetPartition(), MaxPartition}, {"project", s.GetProject(), MaxProject},
	} {
		if err := checkWord(f.field, f.value, f.limit); err != nil {
			return err
		}
	}
	return nil
}

// checkText accepts printable text of at most limit bytes; empty is fine.
func checkText(field, v string, limit int) *FieldError {
	if len(v) > limit {
		return invalid(field, "is longer than "+strconv.Itoa(limit)+" bytes", "shorten it")
	}
	if !utf8.ValidString(v) {
		return invalid(field, "is not valid UTF-8", "use plain text")
	}
	for _, r := range v {
		if r < ' ' || r == 0x7f {
			return invalid(field, "holds a control character", "use plain text on one line")
		}
	}
	return nil
}

// checkWord accepts letters, digits, dot, dash and underscore, starting with a letter or digit; empty is fine.
func checkWord(field, v string, limit int) *FieldError {
	if len(v) > limit {
		return invalid(field, "is longer than "+strconv.Itoa(limit)+" bytes", "shorten it")
	}
	for i := 0; i < len(v); i++ {
		c := v[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '-' && c != '_') {
			return invalid(field, quote(v)+" is not a name", "use letters, digits, dots, dashes and underscores, starting with a letter or digit")
		}
	}
	return nil
}

func checkNumbers(s *fettlev1.JobSpec) *FieldError {
	if s.GetPriority() > MaxPriority {
		return invalid("priority", strconv.FormatUint(uint64(s.GetPriority()), 10)+" is out of range", "use 1 (most urgent) to 10")
	}
	if s.Retries != nil && s.GetRetries() > MaxRetries {
		return invalid("retries", "is above "+strconv.Itoa(MaxRetries), "use 0 to "+strconv.Itoa(MaxRetries))
	}
	return nil
}

func checkResources(s *fettlev1.JobSpec) *FieldError {
	if s.GetNodes() > MaxNodesPerJob {
		return invalid("nodes", "is above "+strconv.Itoa(MaxNodesPerJob), "ask for fewer nodes")
	}
	if s.GetCpusPerNode() > MaxCPUsPerNode {
		return invalid("cpus", "is above "+strconv.Itoa(MaxCPUsPerNode)+" per node", "ask for fewer CPUs")
	}
	if s.GetMemMibPerNode() < 0 {
		return invalid("mem", "is negative", "use a size such as 16G")
	}
	if s.GetMemMibPerNode() > MaxMemMiBPerNode {
		return invalid("mem", "is above 64 TiB per node", "ask for less memory")
	}
	count, kind := GPUs(s)
	if count > MaxGPUsPerNode {
		return invalid("gpus", "is above "+strconv.Itoa(MaxGPUsPerNode)+" per node", "spread the job over more nodes")
	}
	if count == 0 && kind != "" {
		return invalid("gpus", "names the type "+quote(kind)+" but no number", "write "+kind+":1, or leave the type out")
	}
	if err := checkWord("gpus", kind, gres.MaxTypeLen); err != nil {
		return err
	}
	return nil
}

func checkNodes(s *fettlev1.JobSpec) *FieldError {
	for _, l := range []struct {
		field string
		names []string
	}{{"nodelist", s.GetNodelist()}, {"exclude", s.GetExclude()}} {
		if len(l.names) > MaxNodeNames {
			return invalid(l.field, "names more than "+strconv.Itoa(MaxNodeNames)+" nodes", "name fewer, or use a partition")
		}
		seen := make(map[string]bool, len(l.names))
		for _, n := range l.names {
			name, err := gres.NodeName(n)
			if err != nil {
				return fromGres(l.field, err)
			}
			if name != n {
				return invalid(l.field, quote(n)+" is not in its plain form", "write "+name)
			}
			if seen[n] {
				return invalid(l.field, "names "+quote(n)+" twice", "name each node once")
			}
			seen[n] = true
		}
	}
	if len(s.GetNodelist()) == 0 {
		return nil
	}
	excluded := make(map[string]bool, len(s.GetExclude()))
	for _, n := range s.GetExclude() {
		excluded[n] = true
	}
	usable := 0
	for _, n := range s.GetNodelist() {
		if !excluded[n] {
			usable++
		}
	}
	if want := max(int(s.GetNodes()), 1); usable < want {
		return invalid("nodelist", "leaves "+strconv.Itoa(usable)+" of the "+strconv.Itoa(want)+" nodes asked for", "name more nodes or ask for fewer")
	}
	return nil
}

func checkDevices(s *fettlev1.JobSpec) *FieldError {
	idx, uuids := s.GetDeviceIndexes(), s.GetDeviceUuids()
	if len(idx) == 0 && len(uuids) == 0 {
		return nil
	}
	if len(idx) > 0 && len(uuids) > 0 {
		return invalid("device", "mixes indexes and UUIDs", "pin by one or the other")
	}
	count, _ := GPUs(s)
	total := int(count) * max(int(s.GetNodes()), 1)
	if len(idx) > int(count) || len(uuids) > total {
		return invalid("device", "pins more GPUs than are asked for", "raise gpus or pin fewer")
	}
	seen := make(map[uint32]bool, len(idx))
	for _, i := range idx {
		if i >= MaxGPUsPerNode {
			return invalid("device", "the index "+strconv.FormatUint(uint64(i), 10)+" is above "+strconv.Itoa(MaxGPUsPerNode-1), "use cuda:0 and up")
		}
		if seen[i] {
			return invalid("device", "pins cuda:"+strconv.FormatUint(uint64(i), 10)+" twice", "pin each GPU once")
		}
		seen[i] = true
	}
	seenUUID := make(map[string]bool, len(uuids))
	for _, u := range uuids {
		if err := checkUUID("device", u); err != nil {
			return err
		}
		if seenUUID[u] {
			return invalid("device", "pins "+quote(u)+" twice", "pin each GPU once")
		}
		seenUUID[u] = true
	}
	return nil
}

func checkUUID(field, u string) *FieldError {
	if u == "" || len(u) > gres.MaxUUIDLen {
		return invalid(field, quote(u)+" is not a GPU's UUID", "use one that finfo shows")
	}
	for i := 0; i < len(u); i++ {
		if u[i] <= ' ' || u[i] >= 0x7f || u[i] == ',' {
			return invalid(field, quote(u)+" is not a GPU's UUID", "use one that finfo shows")
		}
	}
	return nil
}

func checkTimes(s *fettlev1.JobSpec) *FieldError {
	if s.GetTimeLimitS() < 0 {
		return invalid("time", "is negative", "use a limit such as 2:00:00")
	}
	if s.GetTimeLimitS() > MaxTimeLimitS {
		return invalid("time", "is above 30 days", "use a shorter limit")
	}
	if s.GetBeginMs() < 0 || s.GetBeginMs() > MaxBeginMS {
		return invalid("begin", "is out of range", "use a time such as now+2hours")
	}
	if s.GetKillGraceS() < 0 || s.GetKillGraceS() > MaxKillGraceS {
		return invalid("kill-grace", "is out of range", "use 1 to "+strconv.Itoa(MaxKillGraceS)+" seconds")
	}
	return nil
}

func checkPaths(s *fettlev1.JobSpec) *FieldError {
	for _, f := range []struct{ field, path string }{
		{"chdir", s.GetWorkDir()}, {"output", s.GetStdoutPath()}, {"error", s.GetStderrPath()}, {"config", s.GetConfigPath()},
	} {
		if err := checkText(f.field, f.path, MaxPath); err != nil {
			return err
		}
	}
	if d := s.GetWorkDir(); d != "" && !strings.HasPrefix(d, "/") {
		return invalid("chdir", quote(d)+" is not an absolute path", "start it with /")
	}
	if c := s.GetConfigPath(); c != "" && !strings.HasPrefix(c, "/") {
		return invalid("config", quote(c)+" is not an absolute path", "start it with /")
	}
	return nil
}
