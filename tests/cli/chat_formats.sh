#!/usr/bin/env bash
# Which chat format a program takes, what it refuses, and that text runs without one.
. "$(dirname "$0")/lib.sh"
run=$(bin qwen-run)
model=datasets/qwen-tiny

# a copy of the sample model whose files say nothing about chats
mkdir -p "$tmp/mute"
cp "$model"/* "$tmp/mute/"
sed -i '/"chat_format"/d' "$tmp/mute/generation_config.json"
expect_exit 78 "$run" -m "$tmp/mute" --chat hello
expect_stderr 'mute: neither chat_template.jinja, nor a chat template in tokenizer_config.json'
expect_stderr 'choose with --chat-format raw, chatml, qwen1.5, qwen2, qwen2.5, qwen3, chatglm2 or'
tap_ok "a chat without a known format is refused"

expect_exit 0 "$run" -m "$tmp/mute" --input-text hello --max-new-tokens 4 --greedy
expect_exit 0 "$run" -m "$tmp/mute" --chat hello --chat-format chatml --max-new-tokens 4 --greedy --json
expect_equal "$(sed 's/.*"ids": *\(\[[^]]*\]\).*/\1/' "$tmp/stdout")" \
    "$("$run" -m "$model" --chat hello --max-new-tokens 4 --greedy --json 2>/dev/null |
        sed 's/.*"ids": *\(\[[^]]*\]\).*/\1/')"
tap_ok "text needs no chat format, and a named one is taken"

printf '{{ messages }}' >"$tmp/mute/chat_template.jinja"
expect_exit 78 "$run" -m "$tmp/mute" --chat hello
expect_stderr "chat_template.jinja: the chat template '\{\{ messages \}\}\.\.\.' \(sha256 [0-9a-f]{64}\)"
tap_ok "an unknown template is named"

expect_exit 78 "$run" -m "$model" --chat hello --no-thinking
expect_stderr "chat format 'chatml' has no thinking to turn on or off"
expect_exit 78 "$run" -m "$model" --chat hello --chat-format raw --system s
expect_stderr "chat format 'raw' has no place for a system prompt"
expect_exit 78 "$run" -m "$model" --chat hello --chat-format chatglm3
expect_stderr "chat format 'chatglm3' needs the special token"
tap_ok "what a format has no place for is refused"

expect_exit 0 "$run" -m "$model" --chat hello --chat-format qwen3 --no-thinking --max-new-tokens 1 --json
thought=$(sed 's/.*"prompt_tokens": *\([0-9]*\).*/\1/' "$tmp/stdout")
expect_exit 0 "$run" -m "$model" --chat hello --chat-format qwen3 --enable-thinking --max-new-tokens 1 --json
plain=$(sed 's/.*"prompt_tokens": *\([0-9]*\).*/\1/' "$tmp/stdout")
expect test "$thought" -gt "$plain"
tap_ok "an empty thought goes into the prompt"

if [ -d "$shared/models/qwen2-tiny" ]; then
    expect_exit 0 "$run" -m "$shared/models/qwen2-tiny" --chat hello --max-new-tokens 4 --greedy --json
    expect_stdout '"prompt_tokens": *[0-9]'
    tap_ok "a tokenizer.json with a template that is known"
else
    tap_skip "a tokenizer.json with a template that is known" "no $shared/models/qwen2-tiny"
fi
tap_done
