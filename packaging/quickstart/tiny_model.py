#!/usr/bin/env python3
"""Make a tiny language model with its tokenizer on disk, without any download.

The model has the shape of Qwen3 with some five hundred thousand random weights; the tokenizer is trained on the texts
of the data folder. It is there to show a whole fine-tuning run in seconds. Its answers are worth nothing. The same
arguments make the same files.

usage: tiny_model.py OUT [--data DIR] [--hidden N] [--layers N] [--vocab N] [--seed N] [--force]

Exit code 0 says that OUT holds a whole model, made now or earlier; 1 that it does not, with one line on why.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent
DONE = "config.json"  # written last into a folder that is renamed when it is whole

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def texts(folder):
    """All strings of all records in the JSON files of folder, in a fixed order."""
    found = []
    for path in sorted(folder.glob("*.json")):
        records = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(records, list):
            continue  # dataset_info.json is an object
        for record in records:
            found.extend(v for v in record.values() if isinstance(v, str) and v)
    if not found:
        raise ValueError(f"no training texts in {folder}: it needs a JSON file with a list of records")
    return found


def make_tokenizer(lines, vocab):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(lines, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=2048,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_model(tokenizer, hidden, layers, seed):
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()

    heads = max(2, hidden // 16)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=16,
        # Larger than usual, so that the model has something to say from the start and an adapter can steer it.
        initializer_range=hidden**-0.5,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config)


def main():
    parser = argparse.ArgumentParser(description="make a tiny language model with its tokenizer on disk")
    parser.add_argument("out", type=pathlib.Path, metavar="OUT", help="folder to make")
    parser.add_argument("--data", type=pathlib.Path, default=HERE / "data", metavar="DIR", help="texts for the tokenizer")
    parser.add_argument("--hidden", type=int, default=128, metavar="N", help="width of the model, a multiple of 32")
    parser.add_argument("--layers", type=int, default=2, metavar="N")
    parser.add_argument("--vocab", type=int, default=512, metavar="N", help="size of the vocabulary, at least 320")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--force", action="store_true", help="make it again when it is there")
    args = parser.parse_args()
    if args.hidden < 32 or args.hidden % 32:
        parser.error(f"--hidden {args.hidden}: use a multiple of 32")
    if args.layers < 1:
        parser.error(f"--layers {args.layers}: use 1 or more")
    if args.vocab < 320:
        parser.error(f"--vocab {args.vocab}: use 320 or more")

    if (args.out / DONE).is_file() and not args.force:
        print(f"tiny model: {args.out} is there")
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    lines = texts(args.data)
    tokenizer = make_tokenizer(lines, args.vocab)
    model = make_model(tokenizer, args.hidden, args.layers, args.seed)

    half = args.out.with_name(args.out.name + ".half")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    model.save_pretrained(half)
    tokenizer.save_pretrained(half)
    shutil.rmtree(args.out, ignore_errors=True)
    half.rename(args.out)
    print(f"tiny model: {args.out}: {model.num_parameters():,} weights, {len(tokenizer)} tokens")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, ImportError) as e:
        sys.exit(f"tiny_model: {e}".splitlines()[0])
