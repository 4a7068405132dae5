#!/usr/bin/env python3
"""Tokens per second of Hugging Face transformers at the shapes of Qwen-7B, to compare qwen-benchmark with.

    python3 scripts/bench_hf.py [--batch 1,2,4] [--input-len 128] [--output-len 64] [--layers 32]
                                [--attn sdpa] [--compile] [--repeat 5] [--dtype float16]

Random weights of the Qwen2 class with the sizes of Qwen-7B (no biases but those of q, k and v, 32 key/value
heads).  Greedy generation of exactly --output-len tokens by model.generate(), with the KV cache; prefill
and decode are told apart by a second run that generates one token.  --compile: static cache and
torch.compile, the fastest way transformers documents.  Prints CSV: batch, prefill tokens/s, decode
tokens/s, requests/s, tokens/s (prompt + generated, as the reference counts), peak memory, medians of
--repeat runs after two warm-up runs.
"""
import argparse
import statistics
import sys
import time

import torch
import transformers


def arguments():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--batch", default="1,2,4,8,16,32,64")
    p.add_argument("--input-len", type=int, default=128)
    p.add_argument("--output-len", type=int, default=64)
    p.add_argument("--layers", type=int, default=32)
    p.add_argument("--attn", default="sdpa", choices=["sdpa", "eager", "flash_attention_2"])
    p.add_argument("--dtype", default="float16", choices=["float16", "bfloat16"])
    p.add_argument("--compile", action="store_true")
    p.add_argument("--repeat", type=int, default=5)
    return p.parse_args()


def build(a):
    config = transformers.Qwen2Config(
        vocab_size=151936, hidden_size=4096, intermediate_size=11008, num_hidden_layers=a.layers,
        num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=8192,
        rms_norm_eps=1e-6, tie_word_embeddings=False, use_cache=True)
    config._attn_implementation = a.attn
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, a.dtype))
    with torch.device("cuda"):
        model = transformers.Qwen2ForCausalLM(config)
    return model.eval()


def seconds(model, ids, n_new, a):
    options = dict(do_sample=False, min_new_tokens=n_new, max_new_tokens=n_new, pad_token_id=0,
                   attention_mask=torch.ones_like(ids))
    if a.compile:
        options["cache_implementation"] = "static"
    torch.cuda.synchronize()
    start = time.perf_counter()
    out = model.generate(ids, **options)
    torch.cuda.synchronize()
    elapsed = time.perf_counter() - start
    assert out.shape[1] == ids.shape[1] + n_new, out.shape
    return elapsed


def main():
    a = arguments()
    if not torch.cuda.is_available():
        sys.exit("bench_hf: no usable GPU")
    model = build(a)
    print(f"# transformers {transformers.__version__}, torch {torch.__version__}, "
          f"{torch.cuda.get_device_name()}, {a.dtype}, {a.attn}{', compiled' if a.compile else ''}, "
          f"{a.input_len} + {a.output_len} tokens, median of {a.repeat}")
    print("batch,prefill_tok_s,decode_tok_s,requests_s,tokens_s,peak_memory_mb", flush=True)
    for batch in (int(b) for b in a.batch.split(",")):
        torch.cuda.reset_peak_memory_stats()
        ids = torch.randint(0, 151936, (batch, a.input_len), device="cuda")
        try:
            with torch.inference_mode():
                for _ in range(2):
                    seconds(model, ids, a.output_len, a)
                    seconds(model, ids, 1, a)
                whole = statistics.median(seconds(model, ids, a.output_len, a) for _ in range(a.repeat))
                first = statistics.median(seconds(model, ids, 1, a) for _ in range(a.repeat))
        except torch.cuda.OutOfMemoryError:
            print(f"{batch},,,,,out of memory", flush=True)
            break
        decode = batch * (a.output_len - 1) / (whole - first)
        print(f"{batch},{batch * a.input_len / first:.1f},{decode:.1f},{batch / whole:.3f},"
              f"{batch * (a.input_len + a.output_len) / whole:.1f},"
              f"{torch.cuda.max_memory_allocated() / 1e6:.0f}", flush=True)


if __name__ == "__main__":
    main()
