package nvml

import (
	"strings"
	"testing"

	"github.com/fettle-hpc/fettle/proto/gres"
)

func TestType(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"NVIDIA H100 80GB HBM3":                        "h100",
		"NVIDIA H100 PCIe":                             "h100",
		"NVIDIA H100 NVL":                              "h100",
		"NVIDIA H200":                                  "h200",
		"NVIDIA H200 141GB HBM3e":                      "h200",
		"NVIDIA H200 NVL":                              "h200",
		"NVIDIA H800":                                  "h800",
		"NVIDIA H20":                                   "h20",
		"NVIDIA B200":                                  "b200",
		"NVIDIA B200 180GB HBM3e":                      "b200",
		"NVIDIA B300 SXM6 AC":                          "b300",
		"NVIDIA GB200":                                 "gb200",
		"NVIDIA GB10":                                  "gb10",
		"NVIDIA GH200 480GB":                           "gh200",
		"NVIDIA A100-SXM4-40GB":                        "a100",
		"Mock NVIDIA A100-SXM4-40GB":                   "a100",
		"NVIDIA A100 80GB PCIe":                        "a100",
		"NVIDIA A100-SXM4-40GB MIG 1g.5gb":             "a100",
		"NVIDIA A100X":                                 "a100x",
		"NVIDIA A800-SXM4-80GB":                        "a800",
		"NVIDIA A30":                                   "a30",
		"NVIDIA A10G":                                  "a10g",
		"NVIDIA A40":                                   "a40",
		"NVIDIA A2":                                    "a2",
		"NVIDIA L4":                                    "l4",
		"NVIDIA L40S":                                  "l40s",
		"Tesla V100-SXM2-32GB":                         "v100",
		"Tesla V100S-PCIE-32GB":                        "v100s",
		"Tesla T4":                                     "t4",
		"Tesla P100-PCIE-16GB":                         "p100",
		"Tesla K80":                                    "k80",
		"NVIDIA GeForce RTX 4090":                      "rtx4090",
		"NVIDIA GeForce RTX 4090 D":                    "rtx4090d",
		"GeForce RTX 3080 Ti":                          "rtx3080ti",
		"NVIDIA GeForce RTX 4070 Ti SUPER":             "rtx4070tisuper",
		"NVIDIA GeForce RTX 5090 Laptop GPU":           "rtx5090-laptop",
		"NVIDIA GeForce GTX 1080 Ti":                   "gtx1080ti",
		"NVIDIA RTX A6000":                             "a6000",
		"NVIDIA RTX 6000 Ada Generation":               "rtx6000ada",
		"NVIDIA RTX PRO 6000 Blackwell Server Edition": "rtxpro6000",
		"Quadro RTX 8000":                              "rtx8000",
		"NVIDIA TITAN RTX":                             "titanrtx",
		"NVIDIA TITAN V":                               "titanv",
		"NVIDIA TITAN X (Pascal)":                      "titanx",
		"NVIDIA Graphics Device":                       "gpu",
		"Orin (nvgpu)":                                 "orin",
		"NVIDIA Quantum Leap-9 128GB HBM5 SXM7":        "quantum-leap-9",
		"":                                             "gpu",
		"   ":                                          "gpu",
		"\x00\xff":                                     "gpu",
		"---":                                          "gpu",
		"超级":                                           "gpu",
		"NVIDIA " + strings.Repeat("very ", 40) + "long": strings.TrimSuffix(strings.Repeat("very-", 13), "-")[:64],
	} {
		got := Type(name)
		if got != want {
			t.Errorf("Type(%q) = %q, want %q", name, got, want)
		}
		if plain, err := gres.ParseType(got); err != nil || plain != got {
			t.Errorf("Type(%q) = %q is not a sound type: %v", name, got, err)
		}
		// What finfo shows can be asked for.
		if req, err := gres.ParseGRES("gpu:" + got + ":2"); err != nil || req.Type != got {
			t.Errorf("a job cannot ask for %q: %v, %v", got, req, err)
		}
	}
}

func TestProfile(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][2]string{
		"NVIDIA A100-SXM4-40GB MIG 1g.5gb":        {"1g.5gb", "a100-1g.5gb"},
		"NVIDIA H100 80GB HBM3 MIG 1g.10gb+me":    {"1g.10gb+me", "a100-1g.10gb.me"},
		"NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb":    {"1c.3g.20gb", "a100-1c.3g.20gb"},
		"NVIDIA A100-SXM4-40GB":                   {"", "a100-mig"},
		"NVIDIA H200 MIG 7g.141gb":                {"7g.141gb", "a100-7g.141gb"},
		"MIG 1g.5gb in the middle of NVIDIA A100": {"", "a100-mig"},
	} {
		got := Profile(name)
		if got != want[0] {
			t.Errorf("Profile(%q) = %q, want %q", name, got, want[0])
		}
		if typ := instanceType("a100", got); typ != want[1] {
			t.Errorf("type of %q = %q, want %q", name, typ, want[1])
		}
	}
}

func FuzzType(f *testing.F) {
	for _, s := range []string{"NVIDIA H100 80GB HBM3", "Tesla T4", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "", ".", "-", "a.b-c_d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		typ := Type(name)
		if plain, err := gres.ParseType(typ); err != nil || plain != typ {
			t.Fatalf("Type(%q) = %q: %v", name, typ, err)
		}
		part := instanceType(typ, Profile(name))
		if plain, err := gres.ParseType(part); err != nil || plain != part {
			t.Fatalf("type %q of an instance of %q: %v", part, name, err)
		}
	})
}
