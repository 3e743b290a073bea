#!/usr/bin/env python3
"""Compiles keys.tsv: the names and rough types of the training keys that LLaMA-Factory v0 takes.

usage: genkeys.py --factory DIR [--factory DIR] --transformers DIR [--transformers DIR] > keys.tsv

Each DIR holds the Python package of that name. Give several releases, newest last; a key that the newest one no longer
has is marked "old". Only the syntax trees are read, nothing is imported. One line a key: name, types joined by commas,
choices joined by bars, mark.
"""
import argparse
import ast
import pathlib
import sys

FACTORY = ["model_args", "data_args", "training_args", "finetuning_args", "generating_args"]
ENUM_FILES = ["trainer_utils.py", "training_args.py"]
# Comma-separated lists that the trainer splits itself; a YAML list is as good.
LISTS = set(
    "dataset eval_dataset lora_target oft_target additional_target freeze_trainable_modules freeze_extra_modules galore_target "
    "apollo_target adapter_name_or_path add_tokens add_special_tokens interleave_probs".split()
)
# What an annotation does not say.
TYPES = {
    "debug": "str,list",
    "fsdp": "bool,str,list",
    "lr_scheduler_kwargs": "str,map",
    "optim_args": "str",
    "parallelism_config": "map",
    "report_to": "str,list",
    "resume_from_checkpoint": "bool,str",
    "trackio_static_space_id": "bool,str",
}
# Keys that come with a variant of the trainer and stand in its examples.
EXTRA = {"kt_config": "map"}
# Fields that are worked out, not given.
DERIVED = {"compute_dtype", "device_map", "model_max_length", "block_diag_attn", "megatron_bridge_args"}


def enums(files):
    found = {}
    for f in files:
        for node in ast.walk(ast.parse(f.read_text())):
            if isinstance(node, ast.ClassDef) and any("Enum" in ast.unparse(b) for b in node.bases):
                found[node.name] = [
                    a.value.value for a in node.body if isinstance(a, ast.Assign) and isinstance(a.value, ast.Constant)
                ]
    return found


def rough(annotation, names):
    types, choices = set(), []

    def walk(n):
        if isinstance(n, ast.BinOp):
            walk(n.left), walk(n.right)
        elif isinstance(n, ast.Subscript):
            head = ast.unparse(n.value).split(".")[-1]
            inner = n.slice.elts if isinstance(n.slice, ast.Tuple) else [n.slice]
            if head in ("Optional", "Union"):
                for i in inner:
                    walk(i)
            elif head == "Literal":
                types.add("str")
                choices.extend(i.value for i in inner)
            elif head in ("dict", "Dict"):
                types.add("map")
            elif head in ("list", "List"):
                types.add("list")
        elif isinstance(n, ast.Constant) and isinstance(n.value, str):
            walk(ast.parse(n.value, mode="eval").body)
        elif isinstance(n, (ast.Name, ast.Attribute)):
            name = ast.unparse(n).split(".")[-1]
            if name in names:
                types.add("str")
                choices.extend(names[name])
            elif name in ("bool", "int", "float", "str"):
                types.add(name)
            elif name in ("dict", "Dict"):
                types.add("map")
            elif name in ("list", "List"):
                types.add("list")
            elif name == "Any":
                types.add("any")

    walk(annotation)
    return types, choices


def fields(path, names):
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for a in node.body:
            if not isinstance(a, ast.AnnAssign) or a.target.id.startswith("_") or a.target.id in DERIVED:
                continue
            if isinstance(a.annotation, ast.Subscript) and ast.unparse(a.annotation.value).endswith("ClassVar"):
                continue
            if a.value is not None and "init=False" in ast.unparse(a.value):
                continue
            yield a.target.id, *rough(a.annotation, names)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--factory", action="append", type=pathlib.Path, required=True)
    p.add_argument("--transformers", action="append", type=pathlib.Path, required=True)
    args = p.parse_args()
    keys = {}

    def take(releases, files, enum_files):
        for i, root in enumerate(releases):
            names = enums([root / f for f in enum_files])
            for f in files:
                if not (root / f).exists():
                    continue
                for name, types, choices in fields(root / f, names):
                    k = keys.setdefault(name, {"types": set(), "choices": [], "new": False})
                    k["types"] |= types
                    k["choices"] += [c for c in choices if c not in k["choices"]]
                    k["new"] |= i == len(releases) - 1

    take(args.transformers, ["training_args.py", "training_args_seq2seq.py"], ENUM_FILES)
    take(args.factory, [f"hparams/{f}.py" for f in FACTORY], ["extras/constants.py"])
    for name, types in EXTRA.items():
        keys[name] = {"types": {types}, "choices": [], "new": True}
    for name in sorted(keys):
        k = keys[name]
        if name in TYPES:
            k["choices"] = []
        types = set(TYPES[name].split(",")) if name in TYPES else k["types"]
        if name in LISTS:
            types |= {"list"}
        if "float" in types:
            types.discard("int")
        if not types:
            sys.exit(f"{name}: no type")
        order = ["bool", "int", "float", "str", "list", "map", "any"]
        print("\t".join([name, ",".join(t for t in order if t in types), "|".join(map(str, k["choices"])), "" if k["new"] else "old"]).rstrip())


if __name__ == "__main__":
    main()
