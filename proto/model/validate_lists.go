package model

import (
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func checkLists(s *fettlev1.JobSpec) *FieldError {
	if err := checkEnv(s.GetEnv()); err != nil {
		return err
	}
	if len(s.GetArgs()) > MaxArgs {
		return invalid("args", "has more than "+strconv.Itoa(MaxArgs)+" arguments", "pass a file instead")
	}
	total := 0
	for _, a := range s.GetArgs() {
		if strings.IndexByte(a, 0) >= 0 {
			return invalid("args", "holds a NUL byte", "remove it")
		}
		total += len(a) + 1
	}
	if total > MaxArgsBytes {
		return invalid("args", "is longer than "+strconv.Itoa(MaxArgsBytes)+" bytes", "pass a file instead")
	}
	if len(s.GetSet()) > MaxSet {
		return invalid("set", "has more than "+strconv.Itoa(MaxSet)+" keys", "write them into the config")
	}
	total = 0
	for _, kv := range s.GetSet() {
		if kv.GetKey() == "" {
			return invalid("set", "has an empty key", "use KEY=VALUE")
		}
		if err := checkText("set", kv.GetKey(), MaxName); err != nil {
			return err
		}
		total += len(kv.GetKey()) + len(kv.GetValue()) + 2
	}
	if total > MaxSetBytes {
		return invalid("set", "is longer than "+strconv.Itoa(MaxSetBytes)+" bytes", "write the values into the config")
	}
	return nil
}

func checkEnv(env []*fettlev1.KeyValue) *FieldError {
	if len(env) > MaxEnv {
		return invalid("export", "has more than "+strconv.Itoa(MaxEnv)+" variables", "export fewer")
	}
	total := 0
	for _, kv := range env {
		k := kv.GetKey()
		if k == "" || strings.ContainsAny(k, "=\x00") {
			return invalid("export", quote(k)+" is not a variable's name", "use NAME=VALUE")
		}
		if strings.IndexByte(kv.GetValue(), 0) >= 0 {
			return invalid("export", "the value of "+quote(k)+" holds a NUL byte", "remove it")
		}
		total += len(k) + len(kv.GetValue()) + 2
	}
	if total > MaxEnvBytes {
		return invalid("export", "is longer than "+strconv.Itoa(MaxEnvBytes)+" bytes", "export fewer variables")
	}
	return nil
}

func checkPayload(s *fettlev1.JobSpec) *FieldError {
	if len(s.GetScript()) > MaxScript {
		return invalid("script", "is larger than "+strconv.Itoa(MaxScript)+" bytes", "keep the bulk in a file that the script reads")
	}
	if len(s.GetConfig()) > MaxConfig {
		return invalid("config", "is larger than "+strconv.Itoa(MaxConfig)+" bytes", "keep data in files that the config names")
	}
	switch method := strings.ToLower(s.GetMethod()); method {
	case "", MethodScript:
		if len(s.GetScript()) == 0 {
			return invalid("script", "is empty", "give a script, or a training config with a method")
		}
		if !strings.HasPrefix(string(s.GetScript()[:min(2, len(s.GetScript()))]), "#!") {
			return invalid("script", "does not start with #!", "add a first line such as #!/bin/bash")
		}
		if len(s.GetConfig()) > 0 {
			return invalid("config", "a script takes no training config", "choose a training method, or drop the config")
		}
	default:
		if len(s.GetConfig()) == 0 {
			return invalid("config", "is empty", "give the training config of method "+method)
		}
		if len(s.GetScript()) > 0 {
			return invalid("script", "method "+method+" takes a training config, not a script", "use method script, or drop the script")
		}
	}
	if n := proto.Size(s); n > MaxSpecBytes {
		return invalid("spec", "is larger than "+strconv.Itoa(MaxSpecBytes)+" bytes in all", "shrink the script, config or environment")
	}
	return nil
}
