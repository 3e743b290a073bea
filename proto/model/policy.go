package model

import (
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	"github.com/fettle-hpc/fettle/proto/gres"
)

// ValidatePolicy checks a cluster policy: partition names, node lists and times, at most one default partition, and the
// form of the scheduling settings. What a setting means is the scheduling policy's to check.
func ValidatePolicy(p *fettlev1.ClusterPolicy) *FieldError {
	if p == nil {
		return invalid("policy", "is missing", "send a policy")
	}
	if len(p.GetPartitions()) > MaxPartitions {
		return invalid("partitions", "more than "+strconv.Itoa(MaxPartitions), "define fewer")
	}
	seen := make(map[string]bool, len(p.GetPartitions()))
	def := ""
	for _, part := range p.GetPartitions() {
		name := part.GetName()
		if name == "" {
			return invalid("partition.name", "is empty", "name every partition")
		}
		field := "partition " + quote(name)
		if err := checkWord(field+".name", name, MaxPartition); err != nil {
			return err
		}
		if seen[name] {
			return invalid(field, "is defined twice", "keep one")
		}
		seen[name] = true
		if part.GetNodes() != "" {
			if _, err := gres.ParseHostSet(part.GetNodes()); err != nil {
				return fromGres(field+".nodes", err)
			}
		}
		if part.GetIsDefault() {
			if def != "" {
				return invalid(field, "is default, and so is "+quote(def), "mark one partition as default")
			}
			def = name
		}
		if err := checkPartitionTimes(field, part); err != nil {
			return err
		}
		if err := checkPreempt(field, part); err != nil {
			return err
		}
	}
	if n := proto.Size(p); n > MaxSpecBytes {
		return invalid("policy", "is larger than "+strconv.Itoa(MaxSpecBytes)+" bytes in all", "use shorter node lists")
	}
	if err := checkTenancy(p); err != nil {
		return err
	}
	return checkScheduling(p.GetScheduling())
}

func checkPartitionTimes(field string, p *fettlev1.Partition) *FieldError {
	for _, t := range []struct {
		name  string
		value int64
	}{{".default_time", p.GetDefaultTimeS()}, {".max_time", p.GetMaxTimeS()}} {
		if t.value < 0 || t.value > MaxTimeLimitS {
			return invalid(field+t.name, "is out of range", "use 0 to 30 days")
		}
	}
	if p.GetMaxTimeS() > 0 && p.GetDefaultTimeS() > p.GetMaxTimeS() {
		return invalid(field+".default_time", "is above max_time", "lower it")
	}
	return nil
}

func checkScheduling(kvs []*fettlev1.KeyValue) *FieldError {
	if len(kvs) > MaxPolicyKeys {
		return invalid("scheduling", "has more than "+strconv.Itoa(MaxPolicyKeys)+" settings", "remove some")
	}
	keys := make(map[string]bool, len(kvs))
	for _, kv := range kvs {
		k := kv.GetKey()
		if k == "" {
			return invalid("scheduling", "has a setting without a name", "name it")
		}
		if err := checkWord("scheduling", strings.ReplaceAll(k, ".", "_"), MaxName); err != nil {
			return err
		}
		if err := checkText("scheduling."+k, kv.GetValue(), MaxComment); err != nil {
			return err
		}
		if keys[k] {
			return invalid("scheduling."+k, "is set twice", "keep one")
		}
		keys[k] = true
	}
	return nil
}
