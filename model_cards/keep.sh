#!/bin/sh
# Copy the model card of a run and the files it is generated from: sh model_cards/keep.sh runs/cards/digits
set -e
run=$1
card=$(dirname "$0")/$(basename "$run")
rm -rf "$card"
mkdir -p "$card/peer" "$card/figures"
for name in README.md config.json peer/config.json dmt_config.json dmt_results.json split.json; do
    cp "$run/$name" "$card/$name"
done
for figure in $(sed -n 's/^!\[.*\](figures\/\(.*\))$/\1/p' "$run/README.md"); do
    cp "$run/figures/$figure" "$card/figures/$figure"
done
