"""The OCR service: protocols that products already speak, over pages and an Engine.

    request -> limits -> stored document -> pages (drawn in processes, read in one fair batch)
            -> Document -> the protocol's own answer

`create_app(engine, settings)` gives a FastAPI application; the same routers are mounted inside
vLLM's server by `vllm_dsocr.plugin.endpoint`. Knows `Engine`, not vllm.
"""
