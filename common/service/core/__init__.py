"""The trusted core: in sealed mode, the one process that holds a tier's keys and sees what was sealed.

No enclave and no attestation: an ordinary process with its own address space and few rights (docs/SECURITY.md).
"""
