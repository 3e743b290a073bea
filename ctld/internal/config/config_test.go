package config

import (
	"testing"
	"time"
)

func TestParseRefusals(t *testing.T) {
	t.Parallel()
	const ok = "data_dir = \"/d\"\n"
	tests := []struct{ name, in, want string }{
		{"no data_dir", ``, `data_dir is missing; name a directory on a local disk, e.g. data_dir = "/var/lib/fettle/ctld"`},
		{"relative data_dir", `data_dir = "x"`, `data_dir "x" is relative; write an absolute path`},
		{"relative plugin_dir", ok + `plugin_dir = "p"`, `plugin_dir "p" is relative; write an absolute path`},
		{"unknown key", ok + "raft_adr = \"x\"", `line 2: unknown key "raft_adr"; docs/admin.md lists the keys`},
		{"unknown key in a table", ok + "[node]\nleese = \"9m\"", `line 3: unknown key "node.leese"; docs/admin.md lists the keys`},
		{"no port", ok + `raft_addr = "127.0.0.1"`, `raft_addr "127.0.0.1": not HOST:PORT`},
		{"port 0", ok + `client_addr = "127.0.0.1:0"`, `client_addr "127.0.0.1:0": the port must be 1 to 65535`},
		{"public address", ok + `client_addr = "0.0.0.0:7100"`, `client_addr "0.0.0.0:7100": plain text is allowed on loopback only; use 127.0.0.1`},
		{"log level", ok + `log_level = "loud"`, `log_level "loud": unknown; use debug, info, warn or error`},
		{"timing", ok + `timing = 99`, `timing 99: out of range; use 0.1 to 10`},
		{"join", ok + `join = ["c1"]`, `join "c1": not HOST:PORT`},
		{"max_jobs", ok + "[retention]\nmax_jobs = -1", `retention.max_jobs -1: negative`},
		{"duration", ok + "[node]\nlease = \"soon\"", `line 3: "soon" is not a duration; write it as 30s, 10m or 2h`},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(tc.in))
			if err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	c, err := Parse([]byte("data_dir = \"/d\"\nname = \"c1\"\n[node]\nlease = \"90s\""))
	if err != nil {
		t.Fatal(err)
	}
	if c.ClientAddr != "127.0.0.1:7100" || c.RaftAddr != "127.0.0.1:7101" || c.Scheduler != "fettle-sched-multifactor" || time.Duration(c.Node.Lease) != 90*time.Second {
		t.Errorf("defaults: %+v", c)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("data_dir = \"/d\"\n[node]\nlease = \"90s\""))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := Parse(data); err == nil && c.DataDir == "" {
			t.Error("accepted a config without data_dir")
		}
	})
}
