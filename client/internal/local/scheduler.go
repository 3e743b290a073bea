package local

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// builtIn is the policy that needs no plugin.
const builtIn = "built-in"

// schedulerPrefix begins the file names of scheduling policies.
const schedulerPrefix = "fettle-sched-"

// scheduler is what a controller's config says for the policy that was asked for: "built-in", a name in its plugin
// directory with or without "fettle-sched-", or an absolute path elsewhere.
func (u *starter) scheduler(ct controller, asked string) (string, error) {
	if asked == builtIn {
		return asked, nil
	}
	dir, err := u.pluginDir(ct)
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(asked) {
		for _, name := range []string{asked, schedulerPrefix + asked} {
			if strings.HasPrefix(name, schedulerPrefix) && program(filepath.Join(dir, name)) {
				return name, nil
			}
		}
		return "", fmt.Errorf("scheduler %q: there is no %s in %s; put it there, or give its path", asked,
			schedulerPrefix+strings.TrimPrefix(asked, schedulerPrefix), dir)
	}
	switch {
	case !strings.HasPrefix(filepath.Base(asked), schedulerPrefix):
		return "", fmt.Errorf("scheduler %q: is not called %sNAME; build it under such a name", asked, schedulerPrefix)
	case !program(asked):
		return "", fmt.Errorf("scheduler %q: is not a program; check the path", asked)
	}
	// The controller takes the name from its plugin directory on.
	return filepath.Rel(dir, asked)
}

// pluginDir is where a controller looks for plugins.
func (u *starter) pluginDir(ct controller) (string, error) {
	if dir := u.configured(ct.Name, "plugin_dir"); dir != "" {
		return dir, nil
	}
	exe, err := filepath.EvalSymlinks(filepath.Join(u.o.BinDir, "fettle-ctld"))
	if err != nil {
		return "", err
	}
	beside := filepath.Dir(exe)
	if found, _ := filepath.Glob(filepath.Join(beside, "fettle-launch-*")); len(found) > 0 {
		return beside, nil
	}
	return filepath.Join(filepath.Dir(beside), "lib", "fettle"), nil
}

// program reports whether a path is an executable file.
func program(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}
