"""Made-up video clips with exact masks: layered scenes that move, rendered, paired with flow pictures and packed.

    motion -> bodies -> layers; pictures -> textures; all -> casting, surroundings -> scene -> clips -> datasets

A clip is a function of (seed, index, settings, pictures) alone. `clips.ClipMaker` renders one; of `datasets`,
`write_pack` fills a folder with thousands, `read_clip` reads them back, and a training run needs no folder.
"""
