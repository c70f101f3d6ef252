"""Made-up video clips with exact masks: layered scenes that move, rendered, paired with flow pictures and packed.

    pictures -> textures -> shapes -> motion -> layers -> bodies, cut_outs, smoke -> casting -> scene -> clips -> packs

A clip is a function of (seed, index, settings, pictures) alone. `clips.ClipMaker` renders one, `packs.write_pack` fills
a folder with thousands, `packs.read_clip` reads them back; `rendering` gives them to a training run without a folder.
"""
