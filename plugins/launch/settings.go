package launch

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fettle-hpc/fettle/plugins/launch/bounded"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
	"github.com/fettle-hpc/fettle/proto/trainconfig"
)

// The settings that a site can give the launchers:
//
//	check_files      auto (default): at submit, look at the files that a config names when the config itself is there with
//	                 the same bytes, which shows that this host sees the submit host's files; always; never
//	extra_keys       further training keys that the site's trainer takes, separated by commas
//	extra_templates  further prompt templates
const (
	settingCheckFiles     = "check_files"
	settingExtraKeys      = "extra_keys"
	settingExtraTemplates = "extra_templates"
)

const (
	checkAuto   = "auto"
	checkAlways = "always"
	checkNever  = "never"
)

type settings struct {
	checkFiles     string
	extraKeys      []string
	extraTemplates []string
}

func parseSettings(given map[string]string) (*settings, error) {
	s := &settings{checkFiles: checkAuto}
	for key, value := range given {
		switch key {
		case settingCheckFiles:
			if !slices.Contains([]string{checkAuto, checkAlways, checkNever}, value) {
				return nil, fmt.Errorf("%s: %q is not a choice; write auto, always or never", key, value)
			}
			s.checkFiles = value
		case settingExtraKeys:
			s.extraKeys = words(value)
		case settingExtraTemplates:
			s.extraTemplates = words(value)
		default:
			return nil, fmt.Errorf("%s: no such setting; launchers know %s, %s and %s", key, settingCheckFiles, settingExtraKeys, settingExtraTemplates)
		}
	}
	return s, nil
}

func words(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
}

// sees answers whether files that a config names may be looked at on this host, and tell something.
func (l *Launcher) sees(tc *pluginv1.TrainingConfig) bool {
	switch l.settings.Load().checkFiles {
	case checkAlways:
		return true
	case checkNever:
		return false
	}
	if !filepath.IsAbs(tc.GetPath()) {
		return false
	}
	data, err := bounded.ReadFile(tc.GetPath(), trainconfig.MaxBytes)
	return err == nil && bytes.Equal(data, tc.GetYaml())
}
