// Command fettle-launch-qlora is the shipped launcher for LoRA and OFT adapters on a quantised base model: plugins/launch behind the plugin
// protocol.
package main

import (
	"log/slog"
	"os"
	"strings"

	"github.com/fettle-hpc/fettle/plugins/launch"
	"github.com/fettle-hpc/fettle/plugins/sdk"
	"github.com/fettle-hpc/fettle/proto/trainconfig"
	"github.com/fettle-hpc/fettle/proto/version"
)

func main() {
	l, err := launch.New(launch.Config{Method: trainconfig.MethodQLoRA})
	if err != nil {
		slog.Error("start", "error", err)
		os.Exit(1)
	}
	sdk.ServeLauncher(sdk.Info{Name: "launch-" + l.Method(), Version: strings.TrimPrefix(version.Version, "v"), Method: l.Method()}, l)
}
