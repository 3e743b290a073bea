package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/pelletier/go-toml/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/fettle-hpc/fettle/client/internal/fakectl"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

// The stand-ins take the place of the real daemons in tests of `fettle up`: they read the same config and flags, and
// agree with each other over files instead of Raft. The first controller leads while it runs, then the second, and so on.

type standInConfig struct {
	Name        string   `toml:"name"`
	DataDir     string   `toml:"data_dir"`
	ClientAddr  string   `toml:"client_addr"`
	RaftAddr    string   `toml:"raft_addr"`
	StateDir    string   `toml:"state_dir"`
	Controllers []string `toml:"controllers"`
	GRES        string   `toml:"gres"`
	CPUs        int      `toml:"cpus"`
	Memory      string   `toml:"memory"`
	Engine      string   `toml:"engine"`
	Scheduler   string   `toml:"scheduler"`
	PluginDir   string   `toml:"plugin_dir"`
	LogLevel    string   `toml:"log_level"`
}

func standInRead() (standInConfig, []string) {
	args := os.Args[1:]
	if len(args) < 2 || args[0] != "--config" {
		standInFail(2, "no --config")
	}
	data, err := os.ReadFile(args[1])
	if err != nil {
		standInFail(2, err.Error())
	}
	var cfg standInConfig
	if err := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields().Decode(&cfg); err != nil {
		standInFail(2, err.Error())
	}
	return cfg, args[2:]
}

func standInFail(code int, msg string) {
	fmt.Fprintln(os.Stderr, "stand-in: error: "+msg)
	os.Exit(code)
}

func standInController() {
	cfg, args := standInRead()
	root := filepath.Dir(filepath.Dir(cfg.DataDir))
	identity := filepath.Join(cfg.DataDir, "identity")
	_, err := os.Stat(identity)
	switch {
	case err == nil:
	case len(args) == 1 && args[0] == "--bootstrap":
	case len(args) == 2 && args[0] == "--join":
		conn, err := net.Dial("tcp", strings.Split(args[1], ",")[0])
		if err != nil {
			standInFail(1, err.Error())
		}
		conn.Close()
	default:
		_ = os.MkdirAll(cfg.DataDir, 0o700)
		_ = os.WriteFile(filepath.Join(cfg.DataDir, "LOCK"), nil, 0o600)
		standInFail(64, "no identity yet; use --bootstrap or --join")
	}
	if _, err := os.Stat(filepath.Join(root, "refuse-"+cfg.Name)); err == nil {
		standInFail(65, "data lost")
	}
	if _, err := os.Stat(filepath.Join(root, "break-"+cfg.Name)); err == nil {
		standInFail(71, "disk error")
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		standInFail(71, err.Error())
	}
	if err := os.WriteFile(identity, []byte(cfg.RaftAddr+" "+cfg.ClientAddr), 0o600); err != nil {
		standInFail(71, err.Error())
	}
	s := &standIn{Server: fakectl.New(), cfg: cfg, root: root}
	l, err := net.Listen("tcp", cfg.ClientAddr)
	if err != nil {
		standInFail(1, err.Error())
	}
	g := grpc.NewServer()
	fettlev1.RegisterControllerServiceServer(g, s)
	go g.Serve(l)
	standInWait(root, cfg.Name)
	g.Stop()
}

// standInWait waits for TERM; with a file "stubborn-NAME" it does not listen to it.
func standInWait(root, name string) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGTERM)
	for range ch {
		if _, err := os.Stat(filepath.Join(root, "stubborn-"+name)); err != nil {
			return
		}
	}
}

// standIn answers for a controller of a group that is written down in files.
type standIn struct {
	*fakectl.Server
	cfg  standInConfig
	root string
}

// members reads who has an identity; the first that answers leads.
func (s *standIn) members() (list []*fettlev1.ServerInfo) {
	files, _ := filepath.Glob(filepath.Join(s.root, "c*", "data", "identity"))
	// With a file "mute-c1" nobody is elected.
	_, err := os.Stat(filepath.Join(s.root, "mute-c1"))
	led := err == nil
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		raft, client, _ := strings.Cut(string(data), " ")
		m := &fettlev1.ServerInfo{Name: filepath.Base(filepath.Dir(filepath.Dir(f))), RaftAddr: raft, ClientAddr: client, Voter: true}
		if !led {
			if conn, err := net.Dial("tcp", client); err == nil {
				conn.Close()
				m.Leader, led = true, true
			}
		}
		list = append(list, m)
	}
	return list
}

func (s *standIn) GetCluster(ctx context.Context, req *fettlev1.GetClusterRequest) (*fettlev1.GetClusterResponse, error) {
	r, err := s.Server.GetCluster(ctx, req)
	r.Servers = s.members()
	r.Header.ServerName, r.Header.IsLeader = s.cfg.Name, false
	for _, m := range r.Servers {
		if m.Leader {
			r.Header.LeaderName, r.Header.LeaderAddr, r.Header.IsLeader = m.Name, m.ClientAddr, m.Name == s.cfg.Name
		}
	}
	return r, err
}

func (s *standIn) ListNodes(context.Context, *fettlev1.ListNodesRequest) (*fettlev1.ListNodesResponse, error) {
	r := &fettlev1.ListNodesResponse{Header: &fettlev1.Header{ServerName: s.cfg.Name, IsLeader: true}}
	files, _ := filepath.Glob(filepath.Join(s.root, "n*", "state", "up"))
	for _, f := range files {
		// A session lasts until the daemon has registered anew, also while it is down.
		session := uint64(1)
		if st, err := os.Stat(f); err == nil {
			session = uint64(st.ModTime().UnixNano())
		}
		r.Nodes = append(r.Nodes, &fettlev1.Node{Name: filepath.Base(filepath.Dir(filepath.Dir(f))), State: fettlev1.NodeState_NODE_STATE_UP, Session: session})
	}
	return r, nil
}

func standInNode() {
	cfg, args := standInRead()
	if len(args) > 0 {
		standInFail(2, "unexpected "+args[0])
	}
	root := filepath.Dir(filepath.Dir(cfg.StateDir))
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		standInFail(1, err.Error())
	}
	// A node has to reach a controller before it is up.
	conn, err := grpc.NewClient("passthrough:///"+cfg.Controllers[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		standInFail(1, err.Error())
	}
	if _, err := fettlev1.NewControllerServiceClient(conn).GetCluster(context.Background(), &fettlev1.GetClusterRequest{}); err != nil {
		standInFail(1, err.Error())
	}
	up := filepath.Join(cfg.StateDir, "up")
	if err := os.WriteFile(up, []byte(cfg.GRES), 0o600); err != nil {
		standInFail(1, err.Error())
	}
	standInWait(root, cfg.Name)
}
