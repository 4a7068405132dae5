# qwen-convert --dry-run on checkpoints of the true shapes of published models, without their
# weights: the parameters are those of the model cards, and the plan stores each of them once.
. "$(dirname "$0")/lib.sh"
convert=$(bin qwen-convert) make=$(bin random-checkpoint)
num() { sed -nE "s/.*\"$1\": *(-?[0-9]+).*/\1/p" "$tmp/stdout"; }

# NAME FAMILY PARAMETERS OPTIONS: makes it, plans T = 1 and 2
plan() {
    local name=$1 family=$2 params=$3 sum=0 b
    shift 3
    rm -rf "$tmp/m"
    expect_exit 0 "$make" "$@" --hollow --dtype bfloat16 -o "$tmp/m"
    expect test "$(du -sk "$tmp/m" | cut -f1)" -lt 4096
    for t in 1 2; do
        expect_exit 0 "$convert" -i "$tmp/m" -o "$tmp/o" --dry-run --json -p $t -t bfloat16
        expect_equal "$(num parameters)" "$params"
        expect_stdout "\"family\": \"$family\""
        sum=0
        for b in $(grep -o '"bytes": [0-9]*, "tensors"' "$tmp/stdout" | grep -o '[0-9]*'); do sum=$((sum + b)); done
        expect_equal "$sum" $((2 * params))
    done
    expect test ! -e "$tmp/o"
    tap_ok "$name: $params parameters"
}
preset() { plan "$1" "$2" "$3" --preset "$1"; }
preset qwen-1.8b qwen 1836828672
preset qwen-7b qwen 7721324544
preset qwen-14b qwen 14167290880
preset qwen-72b qwen 72287920128
preset qwen2.5-0.5b qwen2 494032768
preset qwen2.5-1.5b qwen2 1543714304
preset qwen2.5-3b qwen2 3085938688
preset qwen2.5-7b qwen2 7615616512
preset qwen2.5-14b qwen2 14770033664
preset qwen2.5-32b qwen2 32763876352
preset qwen2.5-72b qwen2 72706203648
preset qwen3-0.6b qwen3 596049920
preset qwen3-1.7b qwen3 1720574976
preset qwen3-4b qwen3 4022468096
preset qwen3-8b qwen3 8190735360
preset qwen3-14b qwen3 14768307200
preset qwen3-32b qwen3 32762123264
preset chatglm2-6b chatglm 6243584000
preset chatglm3-6b chatglm 6243584000
preset chatglm3-6b-32k chatglm 6243584000

real() { # the config.json of the checkpoint itself
    local file=$shared/data/tokenizers/configs/$1/config.json
    if [ -f "$file" ]; then
        plan "$1, its own config.json" "$2" "$3" --config "$file"
    else
        tap_skip "$1, its own config.json" "$file is not there"
    fi
}
real qwen-7b qwen 7721324544
real qwen-7b-chat-aug2023 qwen 7721324544
real qwen-72b qwen 72287920128
real qwen1.5-0.5b qwen2 463987712
real qwen3-0.6b qwen3 596049920
real qwen3-1.7b qwen3 1720574976
real qwen3-4b qwen3 4022468096
real qwen3-8b qwen3 8190735360
real qwen3-14b qwen3 14768307200
real qwen3-32b qwen3 32762123264
real chatglm3-6b chatglm 6243584000

# groups that ranks would have to cut in two are refused before anything is quantized
gptq=$(bin qwen-gptq)
fits() { # EXIT RANKS GROUP [MESSAGE]
    expect_exit "$1" "$gptq" -i "$tmp/m" -o "$tmp/m.h5" --rtn --dry-run -p "$2" --group-size "$3"
    [ $# -lt 4 ] || expect_stderr "$4"
}
split() { # PRESET
    rm -rf "$tmp/m"
    expect_exit 0 "$make" --preset "$1" --hollow -o "$tmp/m"
}
split qwen-7b
fits 0 2 128
fits 78 4 128 '4 ranks do not divide the 86 groups of 128 inputs of ffn_down: use --tensor-parallelism 2, or --group-size 64'
split qwen-14b
fits 0 1 128 'groups of 128 cannot be shared by 2 ranks, groups of 64 can'
fits 78 2 128 '2 ranks do not divide the 107 groups of 128 .*: use --tensor-parallelism 1, or --group-size 64'
fits 0 2 64
fits 0 2 -1
fits 78 3 128 '3 ranks do not divide attention heads 40: use --tensor-parallelism 2'
split qwen-72b
fits 0 8 128
split qwen2.5-72b
fits 78 2 128 'the 231 groups of 128'
rm -rf "$tmp/m"
expect_exit 0 "$make" --family qwen2 --hidden 96 --heads 3 --kv-heads 1 --head-dim 36 --ffn 100 \
    --layers 2 --vocab 320 -o "$tmp/m"
fits 65 1 32 'q_proj.weight: \[108, 96\]: 4-bit codes are kept in words of 8, .*: use --bits 8'
expect_exit 0 "$gptq" -i "$tmp/m" -o "$tmp/m.h5" --rtn --bits 8 --no-report
expect_exit 0 "$(bin qwen-inspect)" "$tmp/m.h5" --verify
tap_ok "shapes that groups, words and ranks do not fit are refused at the start"

expect_exit 64 "$make" --preset qwen9 -o "$tmp/x"
expect_stderr "'qwen9' is not qwen-1.8b, qwen-7b,"
expect_exit 64 "$make" --family bert -o "$tmp/x"
expect_stderr "'bert' is not qwen, qwen2, qwen3 or chatglm"
expect_exit 66 "$make" --config "$tmp/none.json" -o "$tmp/x"
printf '{"model_type": "qwen3_moe"}' >"$tmp/moe.json"
expect_exit 78 "$make" --config "$tmp/moe.json" -o "$tmp/x"
expect_stderr "model_type 'qwen3_moe' is not supported"
expect test ! -e "$tmp/x"
tap_ok "unknown presets, families and configurations are refused"

tap_done
